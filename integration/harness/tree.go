package harness

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// Tree is what a directory holds: each path below it, and in a word what is
// there ("dir", "link TARGET", "file MODE SHA256").
type Tree map[string]string

// ReadTree reads a directory whole. The names in skip, at its top, are left out.
func ReadTree(dir string, skip ...string) (Tree, error) {
	tree := Tree{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		for _, s := range skip {
			if rel == s {
				return fs.SkipDir
			}
		}
		tree[rel], err = describe(path, e)
		return err
	})
	return tree, err
}

func describe(path string, e fs.DirEntry) (string, error) {
	switch {
	case e.IsDir():
		return "dir", nil
	case e.Type()&fs.ModeSymlink != 0:
		target, err := os.Readlink(path)
		return "link " + target, err
	}
	info, err := e.Info()
	if err != nil {
		return "", err
	}
	sum, err := SHA256(path)
	return fmt.Sprintf("file %v %s", info.Mode().Perm(), sum), err
}

// SHA256 is the hash of a file's content, in hex.
func SHA256(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.CopyBuffer(h, f, make([]byte, 1<<20)); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Diff says where two trees differ, "" when nowhere.
func (t Tree) Diff(got Tree) string {
	var lines []string
	for path, w := range t {
		if g, ok := got[path]; !ok {
			lines = append(lines, fmt.Sprintf("%s: missing, want %s", path, w))
		} else if g != w {
			lines = append(lines, fmt.Sprintf("%s: got %s, want %s", path, g, w))
		}
	}
	for path, g := range got {
		if _, ok := t[path]; !ok {
			lines = append(lines, fmt.Sprintf("%s: unexpected %s", path, g))
		}
	}
	sort.Strings(lines)
	if len(lines) > 20 {
		lines = append(lines[:20], fmt.Sprintf("… and %d more", len(lines)-20))
	}
	return strings.Join(lines, "\n")
}
