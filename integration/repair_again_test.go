package integration

import (
	"os"
	"testing"
)

// TestRebuiltThenDamaged: the journal of a store that was rebuilt from packs does
// not hold what it was rebuilt to. So when its index is lost, a start does not
// make an empty tree of that journal, nor does a repair: every step is back.
func TestRebuiltThenDamaged(t *testing.T) {
	s := history(t)
	must(t, os.RemoveAll(s.Store+"/index"))
	must(t, os.RemoveAll(s.Store+"/journal"))
	repaired(t, s.Store, 0)
	s.again(t)
	must(t, os.RemoveAll(s.Store+"/index"))
	refusedMount(t, s, "check --repair")
	repaired(t, s.Store, 0)
	wantClean(t, "rebuilt twice", s.Store, "--read-data")
	s.isWhole(t)
	must(t, s.Stop())
}
