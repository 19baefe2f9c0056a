package main

import (
	"context"
	"time"
)

// service is a store that can be asked: by the running daemon's socket
// (client), or opened in this process (local).
type service interface {
	Status(ctx context.Context) (Status, error)
	Stats(ctx context.Context) (Stats, error)
	// Snapshots calls fn for each snapshot that the query selects, in order.
	Snapshots(ctx context.Context, q SnapshotQuery, fn func(SnapshotInfo) error) error
	// Find resolves a name of one: "12000", "12000@77", "@77" or a given name.
	Find(ctx context.Context, scope, name string) (SnapshotInfo, error)
	Snapshot(ctx context.Context, r SnapshotRequest) (SnapshotInfo, error)
	Rollback(ctx context.Context, r RollbackRequest) (SnapshotInfo, error)
	// Drain returns once everything staged at the call is stored; fn hears how far it is.
	Drain(ctx context.Context, fn func(DrainProgress) error) error
	// Source reads the tree of a snapshot.
	Source(ctx context.Context, s SnapshotInfo) (source, error)
	Close() error
}

// SnapshotInfo is one line of `stepfs snapshots --json`.
type SnapshotInfo struct {
	ID       string    `json:"id"` // the name that is this revision's for ever: "12000@77", or "@77" for a barrier
	Step     string    `json:"step,omitempty"`
	Scope    string    `json:"scope,omitempty"`
	Revision int       `json:"revision"`
	Sequence uint64    `json:"sequence"`
	Time     time.Time `json:"time"`
	Reason   string    `json:"reason"`
	Verdict  string    `json:"verdict,omitempty"` // complete, partial, unverified
	Marks    []string  `json:"marks,omitempty"`
	Tags     []string  `json:"tags"`
	Logical  int64     `json:"logical_bytes"`
	New      int64     `json:"new_bytes"`
	Stored   int64     `json:"stored_bytes"`
	State    string    `json:"state"` // staged, stored
}

// SnapshotQuery selects snapshots.
type SnapshotQuery struct {
	Scope     *string `json:"scope,omitempty"`     // nil: every scope
	Revisions bool    `json:"revisions,omitempty"` // every revision of a step, not only the newest
	Barriers  bool    `json:"barriers,omitempty"`  // the barriers that are kept, sealed or not
}

// SnapshotRequest asks for an explicit snapshot.
type SnapshotRequest struct {
	Scope string   `json:"scope,omitempty"`
	Name  string   `json:"name"`
	Tags  []string `json:"tags,omitempty"`
}

// RollbackRequest asks for a live scope to become what a step was.
type RollbackRequest struct {
	Scope string `json:"scope,omitempty"`
	Step  string `json:"step"`
}

// DrainProgress says what still waits. The last one has Done.
type DrainProgress struct {
	Remaining int64 `json:"remaining_bytes"`
	Total     int64 `json:"total_bytes"`
	Done      bool  `json:"done"`
}

// UmountRequest ends the daemon.
type UmountRequest struct {
	Lazy bool `json:"lazy,omitempty"`
}

// Status is what an operator asks first. It is also snapshots/.status.json.
type Status struct {
	Store       string        `json:"store"`
	ID          string        `json:"id"`
	Running     bool          `json:"running"`
	PID         int           `json:"pid,omitempty"`
	Version     string        `json:"version"`
	Since       time.Time     `json:"since,omitzero"`
	Mountpoint  string        `json:"mountpoint,omitempty"`
	SnapDir     string        `json:"snapdir,omitempty"` // absolute; where snapshots are
	Fault       string        `json:"fault,omitempty"`   // why the store is read-only
	Last        *SnapshotInfo `json:"last,omitempty"`    // the step sealed last
	Steps       int           `json:"steps"`
	Barriers    int           `json:"barriers"`
	OpenFiles   int           `json:"open_for_writing"`
	Unstored    int64         `json:"unstored_bytes"` // staged and not in packs yet
	Filesystem  string        `json:"filesystem"`
	Advice      string        `json:"advice,omitempty"`
	SpaceTotal  int64         `json:"space_total_bytes"` // of the disk
	SpaceFree   int64         `json:"space_free_bytes"`
	Limit       int64         `json:"limit_bytes"` // what the store may take
	Used        int64         `json:"used_bytes"`  // what it takes
	Free        int64         `json:"free_bytes"`  // what is left of the limit, and on the disk
	Reserve     int64         `json:"reserve_bytes"`
	PackBytes   int64         `json:"pack_bytes"`
	Hot         int64         `json:"hot_bytes"` // whole copies of what is stored; they go when room is needed
	Growth      int64         `json:"growth_bytes_per_hour,omitempty"`
	Lasts       int64         `json:"lasts_seconds,omitempty"` // at the present rate; 0: it does not grow
	RecentFault []string      `json:"recent_faults,omitempty"`
}

// Stats counts what the store holds and what was done since it was opened.
type Stats struct {
	Packs     uint64 `json:"packs"`
	Chunks    uint64 `json:"chunks"`
	Raw       uint64 `json:"raw_bytes"`    // plain bytes of all chunks
	Stored    uint64 `json:"stored_bytes"` // the same, encoded
	PackBytes uint64 `json:"pack_bytes"`   // of the pack files

	// What the store takes on the disk, by class.
	Data    int64 `json:"data_bytes"`    // packs, without what is dead in them
	Dead    int64 `json:"dead_bytes"`    // in packs, and named by nothing any more
	Staging int64 `json:"staging_bytes"` // staging files
	Hot     int64 `json:"hot_bytes"`     // copies of what is stored, nearly all of them in staging files
	Index   int64 `json:"index_bytes"`
	Journal int64 `json:"journal_bytes"`
	Other   int64 `json:"other_bytes"` // config, log, directories
	Total   int64 `json:"total_bytes"`

	Ingested  uint64 `json:"ingested_bytes"`
	Duplicate uint64 `json:"duplicate_bytes"`
	Inherited uint64 `json:"inherited_bytes"`
	Written   uint64 `json:"written_bytes"`
	Read      uint64 `json:"read_bytes"`
	Loads     uint64 `json:"chunk_loads"`
	CacheHits uint64 `json:"cache_hits"`

	LostPacks     int `json:"lost_packs"`
	BadPacks      int `json:"bad_packs"`
	DamagedChunks int `json:"damaged_chunks"`
}
