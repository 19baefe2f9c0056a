// Package prune is how writers that share a bucket publish, and how packs that
// no ref needs are deleted meanwhile.
//
// The invariant: every ref that exists names only packs that exist. It rests on
// put-if-absent, replace-if-match and get alone. No clock and no list has a part
// in it: clocks say when to lose patience, lists where to look for garbage.
//
// A key that decides something (a lease, a ref, a retired list) is never free
// again once something lay under it: what goes leaves a tombstone. So a request
// that was given up and still arrives changes nothing.
//
// The writer's side (lease.go, publish.go). A lease says: I keep to the retired
// list of this epoch. My refs below Next are settled: each is there or has a
// tombstone, for ever. The one at Next, if I have put it, names nothing that
// this list forbids. I have put none above Next.
//
//   - A lease is opened first, with epoch 0; then the newest list is read; then
//     the lease is replaced with that epoch; then refs are put.
//   - Before a lease is replaced the ref at Next is settled, if it was begun.
//
// Prune's side (prune.go). Each run makes of list E the list E+1:
//
//   - It reads all leases after it has read E. One that is closed or shows E at
//     least is well. Else the writer is waited for until E is old enough, and
//     then fenced (fence.go): a tombstone is put at its Next, then the lease is
//     closed, if it is still the one that was read. A ref on its way finds its
//     place taken.
//   - Then it reads all refs. What E condemned and no ref names is dead in E+1;
//     what a ref does name is spared, by not being in E+1. What no ref names
//     and is old enough is condemned in E+1. E+1 is put if absent.
//   - Dead packs are deleted whenever they are seen.
//
// Why dead is for ever: a ref that names a pack of E's condemned was put by a
// writer whose lease showed less than E. By the time that all leases are well,
// all such refs are settled, so they are among those that are read. Later refs
// are put under E or a later list: E forbids the pack, and of the later lists
// the first says what became of it. And a lease that was not there, or closed,
// when it was read is opened later, so its writer reads E or a later one.
//
// docs/ARCHITECTURE.md says what was rejected; machine_test.go explores it.
package prune
