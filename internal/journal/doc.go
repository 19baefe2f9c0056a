// Package journal is the only log of a store: the ordered, checksummed record of
// everything a caller was told of. It knows nothing of what its records mean.
//
// Read format.go first (what is on disk), then append.go and sync.go (the two
// hot paths), then recover.go (what a restart believes of what it finds).
// docs/FORMAT.md has the byte tables.
//
// # The promises
//
//  1. What Append returned survives the death of the process: the record went
//     to the kernel by one write(2) before Append returned.
//  2. What Sync returned for survives a power cut.
//  3. Replay yields a prefix of what was appended, whole records only, that
//     includes everything that was synced. If it cannot, Open says ErrCorrupt.
//  4. An fdatasync of the journal changes no metadata, so it never waits for
//     another file's delayed allocation: a segment is written full of zeros and
//     fsynced, and its directory synced, before its first record.
//
// # The invariants behind them
//
//   - A file under its final name (number.seg) was written whole and synced
//     before it got that name. Anything half-prepared is called number.tmp.
//   - Segment numbers only grow. A file never holds bytes of a segment whose
//     number is greater than its name's, so a fresh number is greater than every
//     name in the directory, and what is left in a recycled file never validates:
//     the number is part of every record's checksum.
//   - A segment ends where the header of its successor says. What stands behind
//     that, in the same file, is the remains of a torn tail and counts for nothing.
//   - A record carries the position known to be synced when it was written. An
//     invalid record below the greatest such position is corruption; above it,
//     it is the tail that a crash tore, and the log ends before it.
//   - The tail found by Open is made durable, and what lies behind the tear is
//     taken out of the way, before anything new is written.
//   - Segments leave at the front one at a time, oldest first, the directory
//     synced after each, and only when a later header is durable: so neither a
//     gap nor a log that forgot its position can be the result of a crash.
//
// # Locks
//
// Append is called under its caller's ordering lock, which is outermost. Inside:
// dirMu, held while files are made, renamed or removed; then mu, held for
// moments only and never over a write or a sync.
package journal
