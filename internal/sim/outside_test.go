package sim

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"stepfs/snapshot"
	"stepfs/snapshot/include"
)

// outside is a file that is not on the mount, and that each sealed snapshot takes
// a copy of: of a moment between the request, or the commit of the step, and the
// answer. It is durable in it like the rest, and nothing else shows it.
type outside struct {
	path string
	did  *counts

	writing sync.Mutex // held by who changes it

	mu       sync.Mutex
	versions []string
	written  int // the newest version that is there for sure
}

// outOfTime is why it may be missing where the machine is overloaded; the manifest
// says so.
const outOfTime = "the time for all included files"

func newOutside(t *testing.T, did *counts) *outside {
	o := &outside{path: t.TempDir() + "/conf", did: did, versions: []string{"version 0"}}
	if err := os.WriteFile(o.path, []byte(o.versions[0]), 0o600); err != nil {
		t.Fatal(err)
	}
	return o
}

// write gives it another content, all of it at one moment.
func (o *outside) write(size int) error {
	o.writing.Lock()
	defer o.writing.Unlock()
	o.mu.Lock()
	n := len(o.versions)
	o.versions = append(o.versions, fmt.Sprintf("version %d %s", n, strings.Repeat("x", size)))
	data := o.versions[n]
	o.mu.Unlock()
	if err := os.WriteFile(o.path+".new", []byte(data), 0o600); err != nil {
		return err
	}
	if err := os.Rename(o.path+".new", o.path); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.written = n
	return nil
}

// span is which versions there may be now.
func (o *outside) span() (lo, hi int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.written, len(o.versions) - 1
}

// apart takes what is included out of what a worker's directory shows.
func apart(view map[string]seen) (own, taken map[string]seen) {
	own, taken = map[string]seen{}, map[string]seen{}
	for path, n := range view {
		if path == include.Dir || strings.HasPrefix(path, include.Dir+"/") {
			taken[path] = n
		} else {
			own[path] = n
		}
	}
	return own, taken
}

// shown checks what a snapshot shows of it in a worker's directory.
func (o *outside) shown(i snapshot.Info, w int, a ack, taken map[string]seen) error {
	if i.Name == "" || i.Scope != dirName(w) {
		if len(taken) > 0 {
			return fmt.Errorf("what is included is there, and should not be: %d paths", len(taken))
		}
		return nil
	}
	if len(taken) == 0 {
		for _, mark := range i.Marks {
			if (!i.Explicit || a.late) && strings.HasPrefix(mark, include.Dir+": no included files") {
				return nil
			}
		}
		if a.sealed {
			return fmt.Errorf("what is included is not there, and the marks are %q", i.Marks)
		}
		return nil // found as it was by a barrier, or sealed by one who includes nothing
	}
	var m include.Manifest
	if err := json.Unmarshal([]byte(taken[include.Dir+"/"+include.ManifestName].data), &m); err != nil || len(m.Files) != 1 {
		return fmt.Errorf("the manifest: %+v, %v", m, err)
	}
	if strings.Contains(m.Files[0].Error, outOfTime) {
		return nil
	}
	got := taken[include.Dir+"/"+include.FilesDir+o.path]
	o.mu.Lock()
	defer o.mu.Unlock()
	ok := false
	for v, data := range o.versions {
		ok = ok || got.data == data && (!a.sealed || a.inLo <= v && v <= a.inHigh)
	}
	if !ok {
		return fmt.Errorf("what is included is %s, none of versions %d to %d: %s", brief(got.data), a.inLo, a.inHigh, o.like(got.data))
	}
	if m.Files[0].Error != "" || int(m.Files[0].Size) != len(got.data) {
		return fmt.Errorf("the manifest: %+v", m)
	}
	o.did.included.Add(1)
	return nil
}

// like says which version data is, or how it differs from the one it says it is.
func (o *outside) like(data string) string {
	if v := slices.Index(o.versions, data); v >= 0 {
		return fmt.Sprintf("it is version %d", v)
	}
	for v, other := range o.versions {
		if !strings.HasPrefix(other, data[:min(len(data), 10)]) {
			continue
		}
		same := 0
		for same < min(len(data), len(other)) && data[same] == other[same] {
			same++
		}
		return fmt.Sprintf("it begins as version %d, of %d bytes, and differs from byte %d on: %q", v, len(other), same, data[same:min(len(data), same+8)])
	}
	return "it is like none"
}

// takeIn changes what is outside.
func (k *worker) takeIn() {
	if err := k.out.write([]int{0, 2000, 70000}[k.rng.IntN(3)]); err != nil {
		k.err = err
	}
}
