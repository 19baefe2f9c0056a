package snapshot

import (
	"context"
	"fmt"
	"time"

	"stepfs/chunkstore"
)

// mendEvery is how often the daemon looks whether what it has sent is still in the
// bucket.
const mendEvery = 24 * time.Hour

// MendRemote looks whether the packs that were uploaded are in the bucket, and
// sends those again that are not.
func (m *Manager) MendRemote(ctx context.Context) (chunkstore.Mended, error) {
	if m.publisher.up == nil {
		return chunkstore.Mended{}, ErrNoBucket
	}
	return m.publisher.mend(ctx)
}

// mend does so, and reports what was not as it should be.
func (p *publisher) mend(ctx context.Context) (chunkstore.Mended, error) {
	r, err := p.up.Mend(ctx)
	if err != nil {
		err = fmt.Errorf("look for the store's packs in the bucket: %w", err)
	}
	if r.Sent > 0 || r.Lost > 0 {
		p.m.fault("publish", fmt.Errorf("of %d packs that had arrived in the bucket %d were not there any more: %d of them were sent again, the others are not here either",
			r.Packs, r.Sent+r.Lost, r.Sent))
	}
	return r, err
}
