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
	// StepStats says what a snapshot brought; fn hears of each of its files.
	StepStats(ctx context.Context, r StepStatsRequest, fn func(FileStats) error) (StepStats, error)
	// Snapshots calls fn for each snapshot that the query selects, in order.
	Snapshots(ctx context.Context, q SnapshotQuery, fn func(SnapshotInfo) error) error
	// Find resolves a name of one: "12000", "12000@77", "@77" or a given name.
	Find(ctx context.Context, scope, name string) (SnapshotInfo, error)
	Snapshot(ctx context.Context, r SnapshotRequest) (SnapshotInfo, error)
	Rollback(ctx context.Context, r RollbackRequest) (SnapshotInfo, error)
	// Drain returns once everything staged at the call is stored, and if it is
	// asked to, published; fn hears how far it is.
	Drain(ctx context.Context, r DrainRequest, fn func(DrainProgress) error) error
	// Forget forgets snapshots by name, or by the store's policy, and gives what
	// was decided. Unforget brings them back.
	Forget(ctx context.Context, r ForgetRequest) (ForgetResult, error)
	Unforget(ctx context.Context, r ForgetRequest) (ForgetResult, error)
	// Hold keeps a snapshot until Release.
	Hold(ctx context.Context, r HoldRequest) (SnapshotInfo, error)
	// Pin keeps a snapshot on this disk, until Release of the hold of that name.
	Pin(ctx context.Context, r HoldRequest) (SnapshotInfo, error)
	// Warm fetches what a snapshot needs and is only in the bucket.
	Warm(ctx context.Context, r HoldRequest) (SnapshotInfo, error)
	Release(ctx context.Context, r HoldRequest) (SnapshotInfo, error)
	// Prune removes what is forgotten; fn hears how far it is.
	Prune(ctx context.Context, r PruneRequest, fn func(PruneProgress) error) error
	// Check looks whether everything is as it should be; fn hears what is found,
	// how far it is, and last the summary.
	Check(ctx context.Context, r CheckRequest, fn func(CheckEvent) error) error
	// Policy changes what is kept, if the request says so, and gives it.
	Policy(ctx context.Context, r PolicyRequest) (PolicyInfo, error)
	// Explain says why a path of the live tree was sealed, or not.
	Explain(ctx context.Context, r ExplainRequest) (ExplainInfo, error)
	// Verify reads a snapshot back; fn hears how far it is. The last call has the Snapshot.
	Verify(ctx context.Context, r VerifyRequest, fn func(VerifyProgress) error) error
	// Diff calls fn for what differs between two snapshots, by path.
	Diff(ctx context.Context, r DiffRequest, fn func(DiffChange) error) (DiffTotal, error)
	// History calls fn for each snapshot in which a path changed, newest first.
	History(ctx context.Context, r HistoryRequest, fn func(HistoryLine) error) error
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
	Verdict  string    `json:"verdict,omitempty"`  // complete, partial, unverified
	Rule     string    `json:"rule,omitempty"`     // by which it is a step
	Findings []string  `json:"findings,omitempty"` // why the verdict is what it is
	Checking bool      `json:"checking,omitempty"` // the verdict may still change
	Marks    []string  `json:"marks,omitempty"`
	Tags     []string  `json:"tags"`
	Logical  int64     `json:"logical_bytes"`
	New      int64     `json:"new_bytes"`    // would come back if this one alone were forgotten and pruned
	Stored   int64     `json:"stored_bytes"` // what it added to packs when it was stored
	State    string    `json:"state"`        // staged, stored

	Pinned    bool           `json:"pinned,omitempty"` // it stays on this disk
	Holds     []HoldInfo     `json:"holds,omitempty"`
	Forgotten *ForgottenInfo `json:"forgotten,omitempty"` // nil: it is not
	Verified  *VerifiedInfo  `json:"verified,omitempty"`  // nil: nobody has read it back yet
	Published *time.Time     `json:"published,omitempty"` // when it was; nil: it is not
}

// HoldInfo says who keeps a snapshot from being removed.
type HoldInfo struct {
	Name   string    `json:"name"`
	By     string    `json:"by"`
	UID    uint32    `json:"uid"`
	Reason string    `json:"reason"`
	Time   time.Time `json:"time"`
}

// ForgottenInfo says when, by whom and why a snapshot was forgotten.
type ForgottenInfo struct {
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	Time   time.Time `json:"time"`
}

// VerifiedInfo says how it went when a snapshot was last read back.
type VerifiedInfo struct {
	Time     time.Time `json:"time"`
	OK       bool      `json:"ok"`
	Seconds  float64   `json:"seconds"`
	Bytes    int64     `json:"bytes"`
	Problems []string  `json:"problems,omitempty"` // "path: why"
}

// VerifyRequest asks for a snapshot to be read back.
type VerifyRequest struct {
	Scope string `json:"scope,omitempty"`
	Step  string `json:"step"`
}

// VerifyProgress says how far a verification is. The last one has the snapshot.
type VerifyProgress struct {
	Done     int64         `json:"done_bytes"`
	Total    int64         `json:"total_bytes"`
	Snapshot *SnapshotInfo `json:"snapshot,omitempty"`
}

// ForgetRequest selects what is to be forgotten, or brought back.
type ForgetRequest struct {
	Scope  *string  `json:"scope,omitempty"`  // by policy, nil: every scope; else the root
	Steps  []string `json:"steps,omitempty"`  // names, or
	Policy bool     `json:"policy,omitempty"` // what the store's policy does not keep
	Remote bool     `json:"remote,omitempty"` // in the bucket, too
	DryRun bool     `json:"dry_run,omitempty"`
	By     string   `json:"by"` // user@host
	Reason string   `json:"reason,omitempty"`
}

// ForgetResult is what was decided on each snapshot that was looked at.
type ForgetResult struct {
	Decisions []ForgetDecision `json:"decisions"`
	URL       string           `json:"url,omitempty"` // of the store's bucket, if it is known
	Writer    string           `json:"writer,omitempty"`
}

// ForgetDecision is one line of `stepfs forget --json`.
type ForgetDecision struct {
	Action   string       `json:"action"` // forget, keep, unforget
	Why      string       `json:"why,omitempty"`
	DryRun   bool         `json:"dry_run,omitempty"`
	Bucket   string       `json:"bucket,omitempty"` // keeps or forgets it; not there: it is not published
	Snapshot SnapshotInfo `json:"snapshot"`
}

// HoldRequest holds a snapshot under a name, or releases it.
type HoldRequest struct {
	Scope  string `json:"scope,omitempty"`
	Step   string `json:"step"`
	Name   string `json:"name"`
	By     string `json:"by,omitempty"`
	UID    uint32 `json:"uid,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// PruneRequest asks for what is forgotten to be removed now.
type PruneRequest struct {
	Wait bool `json:"wait,omitempty"` // till it is done; else the daemon goes on by itself
}

// PruneProgress says how far a prune is. The last one has Done, unless nobody waits.
type PruneProgress struct {
	Pruned  int   `json:"pruned"`        // snapshots and barriers
	Left    int   `json:"left"`          // forgotten ones that are still there; with Done, since they are in use
	Packs   int64 `json:"pack_bytes"`    // that came back, of packs and
	Staging int64 `json:"staging_bytes"` // of staging files
	Done    bool  `json:"done"`
}

// PolicyRequest changes the store's policy: "key=value" to set, keys to unset.
type PolicyRequest struct {
	Set   []string `json:"set,omitempty"`
	Unset []string `json:"unset,omitempty"`
}

// PolicyInfo is the policy in force, as rule to value.
type PolicyInfo struct {
	Rules    map[string]string `json:"rules"`
	Defaults []string          `json:"defaults,omitempty"` // rules that nobody has set
	Fault    string            `json:"fault,omitempty"`    // why the settings can't be used: everything is kept
}

// ExplainRequest names a path of the live tree.
type ExplainRequest struct {
	Path string `json:"path"`
}

// ExplainInfo says why a path was sealed as a step, or not.
type ExplainInfo struct {
	Path   string        `json:"path"` // of the step
	Step   string        `json:"step,omitempty"`
	Scope  string        `json:"scope,omitempty"`
	Waits  bool          `json:"waits"`
	Lines  []string      `json:"lines"`
	Sealed *SnapshotInfo `json:"sealed,omitempty"`
}

// SnapshotQuery selects snapshots.
type SnapshotQuery struct {
	Scope     *string `json:"scope,omitempty"`     // nil: every scope
	Revisions bool    `json:"revisions,omitempty"` // every revision of a step, not only the newest
	Barriers  bool    `json:"barriers,omitempty"`  // the barriers that are kept, sealed or not
	Forgotten bool    `json:"forgotten,omitempty"` // what was forgotten and can be brought back, instead
}

// DiffRequest names two snapshots, as Find does, or as "scope/name".
type DiffRequest struct {
	Scope string `json:"scope,omitempty"`
	Old   string `json:"old"`
	New   string `json:"new"`
}

// DiffChange is one line of `stepfs diff --json`.
type DiffChange struct {
	Change  string `json:"change"` // A, D, or letters of R M T p o t x
	Type    string `json:"type"`   // file, dir, symlink, other
	Path    string `json:"path"`
	From    string `json:"from,omitempty"` // where it was, if that was elsewhere
	OldSize int64  `json:"old_size"`
	NewSize int64  `json:"new_size"`
	Bytes   int64  `json:"changed_bytes"`
}

// DiffTotal is the last line of `stepfs diff --json`.
type DiffTotal struct {
	Event   string `json:"event"` // total
	Old     string `json:"old"`   // IDs, with the scope
	New     string `json:"new"`
	Added   int    `json:"added"`
	Removed int    `json:"removed"`
	Renamed int    `json:"renamed"`
	Changed int    `json:"changed"`
	Bytes   int64  `json:"changed_bytes"` // content that has several names counts once
}

// HistoryRequest asks for the history of a path.
type HistoryRequest struct {
	Path string `json:"path"`          // below the mountpoint, clean
	All  bool   `json:"all,omitempty"` // barriers too
}

// HistoryLine is one line of `stepfs log --json`: a snapshot in which it changed.
type HistoryLine struct {
	Snapshot string    `json:"snapshot"` // its ID, with the scope
	Sequence uint64    `json:"sequence"`
	Time     time.Time `json:"time"`
	Path     string    `json:"path"`
	Change   string    `json:"change"` // A, D (gone), or letters of R M T p o t x
	Type     string    `json:"type,omitempty"`
	Inode    uint64    `json:"inode,omitempty"`
	Size     int64     `json:"size"`
	Mtime    time.Time `json:"mtime,omitzero"`
	Bytes    int64     `json:"changed_bytes"` // against the snapshot before
}

// SnapshotRequest asks for an explicit snapshot.
type SnapshotRequest struct {
	Scope string   `json:"scope,omitempty"`
	Name  string   `json:"name"`
	Tags  []string `json:"tags,omitempty"`

	// Path is that of a step of the live tree which was imported and is to be
	// sealed as what it is; then nothing else is set.
	Path string `json:"path,omitempty"`
}

// RollbackRequest asks for a live scope to become what a step was.
type RollbackRequest struct {
	Scope string `json:"scope,omitempty"`
	Step  string `json:"step"`
}

// DrainRequest says how far to drain.
type DrainRequest struct {
	Remote bool `json:"remote,omitempty"` // until it is published, too
	Mend   bool `json:"mend,omitempty"`   // and what the bucket has lost is sent again
}

// DrainProgress says what still waits. The last one has Done.
type DrainProgress struct {
	Remaining int64 `json:"remaining_bytes"`
	Total     int64 `json:"total_bytes"`
	Done      bool  `json:"done"`

	// Of a drain into the bucket, once everything is stored: steps that have yet
	// to be published, and why they are not, if something is in the way.
	Unpublished int    `json:"unpublished,omitempty"`
	Waiting     string `json:"waiting_for,omitempty"`

	// Of what was looked for in the bucket: packs that had arrived, those that were
	// sent again, and those that are nowhere any more.
	Packs  int `json:"packs,omitempty"`
	Resent int `json:"resent,omitempty"`
	Lost   int `json:"lost,omitempty"`
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
	Recovery    RecoveryInfo  `json:"recovery"`
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
	PackBytes   int64         `json:"pack_bytes"`           // of the packs that are here
	Away        int64         `json:"away_bytes,omitempty"` // of those that are only in the bucket
	Hot         int64         `json:"hot_bytes"`            // whole copies of what is stored; they go when room is needed
	Growth      int64         `json:"growth_bytes_per_hour,omitempty"`
	Lasts       int64         `json:"lasts_seconds,omitempty"` // at the present rate; 0: it does not grow
	Next        []NextInfo    `json:"next_to_go"`              // when room is scarce, in this order
	KeepSteps   bool          `json:"keeps_steps,omitempty"`   // no step goes (--on-full=stop)
	Pins        []PinInfo     `json:"pins"`                    // what needs the most space of its own and can't go
	Prune       PruneInfo     `json:"prune"`
	Scrub       ScrubInfo     `json:"scrub"`
	Remote      *RemoteInfo   `json:"remote,omitempty"` // nil: it belongs to no bucket
	RecentFault []string      `json:"recent_faults,omitempty"`
}

// RecoveryInfo says how sure it is that steps can be had back, and how soon.
type RecoveryInfo struct {
	Sound     int     `json:"sound"`     // steps whose last verification found them whole
	Damaged   int     `json:"damaged"`   // and those that it did not
	Integrity float64 `json:"integrity"` // sound ones in per cent of all steps
	Rate      int64   `json:"bytes_per_second"`
	Seconds   int64   `json:"restore_seconds,omitempty"` // for the last step, at that rate; 0: not known
}

// Stats counts what the store holds and what was done since it was opened.
type Stats struct {
	Packs     uint64 `json:"packs"`
	Chunks    uint64 `json:"chunks"`
	Raw       uint64 `json:"raw_bytes"`    // plain bytes of all chunks
	Stored    uint64 `json:"stored_bytes"` // the same, encoded
	PackBytes uint64 `json:"pack_bytes"`   // of the pack files that are here
	AwayBytes uint64 `json:"away_bytes"`   // of the packs that are only in the bucket
	AwayPacks int    `json:"away_packs"`

	// What encoding saves, raw_bytes less stored_bytes, by how chunks are kept.
	SavedZstd   uint64 `json:"saved_zstd_bytes"`
	SavedPlanes uint64 `json:"saved_planes_bytes"`
	SavedDeltas uint64 `json:"saved_deltas_bytes"`

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
	Hurried   uint64 `json:"hurried_bytes"` // of ingested ones, changed ones for which there was no time to make deltas
	Read      uint64 `json:"read_bytes"`
	Loads     uint64 `json:"chunk_loads"`
	CacheHits uint64 `json:"cache_hits"`

	LostPacks     int `json:"lost_packs"`
	BadPacks      int `json:"bad_packs"`
	DamagedChunks int `json:"damaged_chunks"`
}

// StepStatsRequest names a snapshot, as Find does, or as "scope/name".
type StepStatsRequest struct {
	Scope string `json:"scope,omitempty"`
	Step  string `json:"step"`
	Files bool   `json:"files,omitempty"` // each is wanted
}

// StepStats is the last line of `stepfs stats --json STORE STEP`.
type StepStats struct {
	Event    string `json:"event"` // total
	Snapshot string `json:"snapshot"`
	Before   string `json:"before,omitempty"` // what it is compared with: the step before it, if one is kept
	Files    int    `json:"files"`
	Saved
}

// FileStats is one line of `stepfs stats --files --json STORE STEP`.
type FileStats struct {
	Event string `json:"event"` // file
	Path  string `json:"path"`
	Saved
}

// Saved says what became of the bytes of files. Duplicates were there in the step
// before, or are there twice.
type Saved struct {
	Size      int64   `json:"size_bytes"`
	Holes     int64   `json:"hole_bytes"`
	Staged    int64   `json:"staged_bytes"` // not stored yet
	Duplicate int64   `json:"duplicate_bytes"`
	Delta     SavedAs `json:"delta"`
	Planes    SavedAs `json:"planes"`
	Zstd      SavedAs `json:"zstd"`
	Raw       SavedAs `json:"raw"`
	Missing   int64   `json:"missing_bytes,omitempty"` // in chunks that the index does not know
}

// SavedAs is about chunks that are kept in one way.
type SavedAs struct {
	Plain  int64 `json:"plain_bytes"`
	Stored int64 `json:"stored_bytes"`
}
