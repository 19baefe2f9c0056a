package integration

import (
	"io/fs"
	"math/rand"
	"os"
	"path/filepath"
	"testing"

	"stepfs/integration/harness"
)

// TestDamage flips bytes in each part of a store. Whatever comes out of it
// afterwards is right, or an error: never other data, never a panic. There are
// no hot copies: those are as good as the disk's own files, and nothing more.
func TestDamage(t *testing.T) {
	for _, part := range []string{"packs", "index", "journal", "config"} {
		t.Run(part, func(t *testing.T) {
			d := mount(t, "--seal-quiet", "100ms", "--hot-limit", "1")
			fill(t, d.Mnt, 60, 5)
			want, err := harness.ReadTree(snapshotNow(t, d, "whole"))
			must(t, err)
			_, err = root.Must("drain", d.Mnt)
			must(t, err)
			must(t, d.Stop())
			if hit := damage(t, filepath.Join(d.Store, part)); hit == 0 {
				t.Fatalf("nothing to damage in %s: this proves nothing", part)
			}
			err = d.Start()
			noPanic(t, d.Output())
			if err != nil {
				t.Logf("refused: %s", d.Output())
				return
			}
			right, refused := readDamaged(t, d.Mnt+"/snapshots/whole", want)
			t.Logf("%d names right, %d refused", right, refused)
			if part == "packs" && refused == 0 {
				t.Error("no read was refused: nothing was read from a damaged pack")
			}
			noPanic(t, d.Output())
			if !d.Running() {
				t.Errorf("the daemon is gone\n%s", d.Output())
			}
		})
	}
}

// damage flips a byte in every 64 KiB of every file at or below path.
func damage(t *testing.T, path string) (hit int) {
	t.Helper()
	rnd := rand.New(rand.NewSource(seed(t)))
	must(t, filepath.WalkDir(path, func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		for at := 0; at < len(b); at += 64 << 10 {
			b[at+rnd.Intn(min(64<<10, len(b)-at))] ^= byte(1 + rnd.Intn(255))
			hit++
		}
		return os.WriteFile(name, b, 0o600)
	}))
	return hit
}

// readDamaged reads each name of the tree by itself: right, or refused.
func readDamaged(t *testing.T, dir string, want harness.Tree) (right, refused int) {
	t.Helper()
	for name, w := range want {
		path := filepath.Join(dir, name)
		info, err := os.Lstat(path)
		if err != nil {
			refused++
			continue
		}
		if !info.Mode().IsRegular() {
			right++
			continue
		}
		sum, err := harness.SHA256(path)
		switch {
		case err != nil:
			refused++
		case "file "+info.Mode().Perm().String()+" "+sum == w:
			right++
		default:
			t.Errorf("%s: wrong data", name)
		}
	}
	return right, refused
}
