package stage

import (
	"context"
	"fmt"

	"stepfs/internal/check"
)

// treeFindings is what Check has to say.
func treeFindings(t *Tree) (out []check.Finding) {
	v := t.db.View()
	defer v.Close()
	r := &check.Run{View: v, Report: func(f check.Finding) { out = append(out, f) }}
	if _, err := t.Check(context.Background(), r); err != nil {
		out = append(out, check.Finding{Kind: check.Damage, What: "error", Detail: fmt.Sprint(err)})
	}
	return out
}
