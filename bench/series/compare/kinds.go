package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"stepfs/chunkstore/codec/simulate"
)

// kind is a kind of store.
type kind struct {
	name    string
	peer    bool   // someone else's
	version string // of a peer
	// store puts a series into a new store and says how long that is.
	store func(series) (stored int64, note string, err error)
}

// kinds are those that can be had here.
func (c *comparison) kinds() []kind {
	all := []kind{
		{name: "restic", peer: true, version: ask("restic", "version"), store: c.restic},
		{name: "borg", peer: true, version: ask("borg", "--version"), store: c.borg},
		{name: "kopia", peer: true, version: ask(c.kopia, "--version"), store: c.kopiaStore},
		{name: "cdc", peer: true, store: simulated(simulate.Config{ZstdAlone: true}, false)},
		{name: "codec", store: simulated(simulate.Config{}, false)},
		{name: "within", store: simulated(simulate.Config{}, true)},
		{name: "stepfs", store: c.stepfs},
	}
	there := all[:0]
	for _, k := range all {
		if k.name != "restic" && k.name != "borg" && k.name != "kopia" || k.version != "" {
			there = append(there, k)
		}
	}
	return there
}

// ask gives a peer's name and version, or "" if it is not there.
func ask(bin, flag string) string {
	out, err := exec.Command(bin, flag).Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return filepath.Base(bin) + ": " + line
}

// peer runs commands, with what keeps them from asking and from looking at the
// user's own settings.
type peer struct {
	repo, dir string
}

func (c *comparison) newPeer(name string) (peer, error) {
	dir, err := c.root.MkdirTemp(name)
	return peer{repo: dir + "/repo", dir: dir}, err
}

// run runs a command in a directory.
func (p peer) run(in, bin string, args ...string) error {
	cmd := exec.Command(bin, args...)
	cmd.Dir = in
	cmd.Env = append(os.Environ(), "HOME="+p.dir, "XDG_CACHE_HOME="+p.dir+"/cache", "XDG_CONFIG_HOME="+p.dir+"/config",
		"RESTIC_REPOSITORY="+p.repo, "RESTIC_PASSWORD=x", "BORG_REPO="+p.repo, "BORG_BASE_DIR="+p.dir,
		"BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes", "KOPIA_PASSWORD=x", "KOPIA_CHECK_FOR_UPDATES=false",
		"KOPIA_CONFIG_PATH="+p.dir+"/kopia.config", "KOPIA_LOG_DIR="+p.dir+"/log", "KOPIA_CACHE_DIRECTORY="+p.dir+"/cache")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", bin, strings.Join(args, " "), err, out)
	}
	return nil
}

// series makes the store, adds each step, and says how long it is.
func (c *comparison) peerSeries(s series, bin string, first [][]string, step func(path string) []string) (int64, string, error) {
	p, err := c.newPeer(filepath.Base(bin))
	if err != nil {
		return 0, "", err
	}
	defer os.RemoveAll(p.dir)
	if err := os.Mkdir(p.repo, 0o755); err != nil {
		return 0, "", err
	}
	for _, args := range first {
		for i, a := range args {
			args[i] = strings.ReplaceAll(a, "{repo}", p.repo)
		}
		if err := p.run(p.dir, bin, args...); err != nil {
			return 0, "", err
		}
	}
	for _, path := range s.steps {
		if err := p.run(path, bin, step(path)...); err != nil {
			return 0, "", err
		}
	}
	stored, err := size(p.repo)
	return stored, "", err
}

func (c *comparison) restic(s series) (int64, string, error) {
	return c.peerSeries(s, "restic", [][]string{{"init", "--repository-version", "2"}},
		func(string) []string { return []string{"backup", "--no-cache", "--compression", "max", "."} })
}

func (c *comparison) borg(s series) (int64, string, error) {
	return c.peerSeries(s, "borg", [][]string{{"init", "-e", "none"}},
		func(path string) []string { return []string{"create", "-C", "zstd", "::" + filepath.Base(path), "."} })
}

func (c *comparison) kopiaStore(s series) (int64, string, error) {
	return c.peerSeries(s, c.kopia, [][]string{
		{"repository", "create", "filesystem", "--path", "{repo}"},
		{"policy", "set", "--global", "--compression", "zstd-best-compression"},
	}, func(string) []string { return []string{"snapshot", "create", "."} })
}

// simulated adds each file of each step, over the same file of the step before;
// if within, bf16 weights over the fp32 ones of the same step.
func simulated(cfg simulate.Config, within bool) func(series) (int64, string, error) {
	return func(s series) (int64, string, error) {
		store, err := simulate.New(cfg)
		if err != nil {
			return 0, "", err
		}
		defer store.Close()
		var sums simulate.Sums
		for i, step := range s.steps {
			var rounded []string // wait for what they are rounded from
			err := filepath.WalkDir(step, func(path string, e fs.DirEntry, err error) error {
				if err != nil || !e.Type().IsRegular() {
					return err
				}
				name, err := filepath.Rel(step, path)
				if err != nil {
					return err
				}
				whole := strings.Replace(path, "bf16", "fp32", 1)
				if _, err := os.Stat(whole); within && whole != path && err == nil {
					rounded = append(rounded, path)
					return nil
				}
				before := ""
				if i > 0 {
					before = filepath.Join(s.steps[i-1], name)
				}
				one, err := simulateFile(store, path, before, name)
				sums.Add(one)
				return err
			})
			for _, path := range rounded {
				one, addErr := simulateFile(store, path, strings.Replace(path, "bf16", "fp32", 1), filepath.Base(path))
				sums.Add(one)
				err = errors.Join(err, addErr)
			}
			if err != nil {
				return 0, "", err
			}
		}
		note := ""
		if !cfg.ZstdAlone {
			note = fmt.Sprintf("%.1f MB were duplicates, %.1f deltas, at most %d deep, %.1f planes",
				float64(sums.Duplicate)/1e6, float64(sums.Delta)/1e6, sums.Deepest, float64(sums.Planes)/1e6)
		}
		return sums.Stored, note, nil
	}
}

// simulateFile adds a file over another, which need not be there.
func simulateFile(store *simulate.Store, path, over, name string) (simulate.Sums, error) {
	file, err := open(path)
	if err != nil {
		return simulate.Sums{}, err
	}
	defer file.Close() // it was only read
	base := simulate.Base{Name: filepath.Base(over)}
	if f, err := open(over); err == nil {
		defer f.Close()
		base.File = f.File
		if base.Wide = base.Name != name; base.Wide {
			// Tensors are in the same order in both: only the headers differ.
			base.Move = header(f) - 2*header(file)
		}
	}
	return store.Add(context.Background(), name, file.File, base)
}

// header is how long the header of a safetensors file is.
func header(r io.ReaderAt) int64 {
	var b [8]byte
	if _, err := r.ReadAt(b[:], 0); err != nil {
		return 0
	}
	return 8 + int64(binary.LittleEndian.Uint64(b[:]))
}

type opened struct {
	simulate.File
	io.Closer
}

func open(path string) (opened, error) {
	f, err := os.Open(path)
	if err != nil {
		return opened{}, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return opened{}, err
	}
	return opened{simulate.File{ReaderAt: f, Size: info.Size()}, f}, nil
}
