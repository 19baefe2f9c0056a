package main

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
)

// cloneRepository has git clone a repository that the row makes. Its objects
// are copied, not linked: the source lies on native ext4 for both sides.
func cloneRepository(b *bench) (Result, error) {
	r := Result{
		What:   fmt.Sprintf("git clone of a repository of %d files", b.files),
		Target: "0.3 of native",
	}
	d, err := b.mount()
	if err != nil {
		return r, err
	}
	native, err := b.native()
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(native)
	if err := makeRepository(native+"/source", b.files); err != nil {
		return r, err
	}
	side := func(base string) func() (float64, error) {
		return func() (float64, error) {
			to := filepath.Join(base, "clone")
			t, err := seconds(func() error { return git(base, "clone", "-q", "--no-hardlinks", native+"/source", to) })
			if err != nil {
				return 0, err
			}
			if err := git(to, "diff", "--quiet", "HEAD"); err != nil {
				return 0, err
			}
			return t, os.RemoveAll(to)
		}
	}
	m, err := b.turns(side(native), side(d.Mnt))
	if err != nil {
		return r, err
	}
	r.add("native", m[0], "s")
	r.add("stepfs", m[1], "s")
	r.add("ratio of speed", m[0]/m[1], "")
	r.Met = m[1] <= m[0]/0.3
	return r, nil
}

// makeRepository commits so many small text files, a hundred to a directory.
func makeRepository(dir string, files int) error {
	random := rand.New(rand.NewPCG(1, 2))
	for i := range files {
		sub := fmt.Sprintf("%s/d%03d", dir, i/100)
		if i%100 == 0 {
			if err := os.MkdirAll(sub, 0o755); err != nil {
				return err
			}
		}
		text := make([]byte, 500+random.IntN(4000))
		for j := range text {
			text[j] = byte(random.Uint32())
		}
		if err := os.WriteFile(fmt.Sprintf("%s/f%05d.txt", sub, i), []byte(hex.EncodeToString(text)), 0o644); err != nil {
			return err
		}
	}
	if err := git(dir, "init", "-q"); err != nil {
		return err
	}
	if err := git(dir, "add", "."); err != nil {
		return err
	}
	if err := git(dir, "-c", "gc.auto=0", "commit", "-q", "-m", "all"); err != nil {
		return err
	}
	return git(dir, "gc", "-q")
}

func git(dir string, args ...string) error {
	cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=bench", "-c", "user.email=bench@localhost"}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("git %q: %w: %s", args, err, out)
	}
	return nil
}
