package stage

import "context"

// Prune frees what only expired snapshots saw. A stub for now: it frees nothing.
func (t *Tree) Prune(context.Context) (more bool, err error) { return false, nil }
