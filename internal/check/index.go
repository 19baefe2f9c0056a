package check

import "context"

// Index reads all that the view has, since no layer asks for every record, and
// reports that some of it does not read back.
func (r *Run) Index(ctx context.Context) error {
	err := r.Each(ctx, nil, func(_, _ []byte) error { return nil })
	if err == nil {
		err = r.View.Tables(ctx)
	}
	if err == nil || ctx.Err() != nil {
		return err
	}
	r.Damage("index", "index", "a part of it can't be read: %v", err)
	return nil
}
