package snapshot

import (
	"context"
	"time"
)

// Freeable gives the bytes that would come back if this snapshot alone were
// forgotten and pruned: in packs, and of what is only staged. Snapshots that
// are forgotten and not pruned count as kept, since they can be brought back.
// It is exact once everything is stored and pruned; it costs what the snapshot
// alone shows, and less when it was asked for before. An answer that may have
// changed since is given while it is no older than age, or than many times as
// long as it took; with 0 it is found anew.
//
// What a snapshot added when it was stored (Info.Stored) is another number: it
// stays the same, while more or less of that is needed by others, too.
func (m *Manager) Freeable(ctx context.Context, seq uint64, age time.Duration) (int64, error) {
	return m.tree.FreeableOf(ctx, seq, age)
}

// FreeableTogether gives the bytes that would come back if all of these
// snapshots were forgotten and pruned: more than the sum of what each alone
// would free, since it has what only they share.
func (m *Manager) FreeableTogether(ctx context.Context, seqs []uint64) (int64, error) {
	return m.tree.Freeable(ctx, seqs...)
}
