package include

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// A SQLite database that is being written is more than its file: a copy of that
// is torn, or misses what is only in the log. So it is taken by the online
// backup of SQLite itself, or not at all.

// sqliteMagic begins every SQLite database.
const sqliteMagic = "SQLite format 3\x00"

// backup makes a consistent copy of a database and gives its path. It opens the
// database for reading only: nothing is rolled back, nor a log written into it.
func (s *Set) backup(ctx context.Context, db string) (path string, err error) {
	program, err := exec.LookPath(s.cfg.SQLite)
	if err != nil {
		return "", fmt.Errorf("it is a SQLite database, of which a plain copy may be torn, and there is no program %s to back it up: install sqlite3", s.cfg.SQLite)
	}
	if err := os.MkdirAll(s.cfg.Scratch, 0o700); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(s.cfg.Scratch, "sqlite")
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, "backup")
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	var out bytes.Buffer
	// The name of the copy is relative, so that nothing in it needs quotes.
	c := exec.CommandContext(ctx, program, "-batch", "-bail", "-readonly", "-init", os.DevNull, db, ".timeout 4000", ".backup backup")
	c.Dir, c.Env, c.Stdout, c.Stderr = dir, []string{"PATH=" + os.Getenv("PATH")}, &out, &out
	c.WaitDelay = time.Second
	if err := c.Run(); err != nil {
		if ctx.Err() != nil {
			return "", errTime
		}
		said, _, _ := strings.Cut(strings.TrimSpace(out.String()), "\n")
		return "", fmt.Errorf("back the SQLite database up: %w: %.200s", err, said)
	}
	return path, nil
}

// partOfSQLite says whether a file is the log of a database beside it. Put back
// beside a backup it would spoil that.
func partOfSQLite(path string) (db string, ok bool) {
	for _, suffix := range []string{"-wal", "-shm", "-journal"} {
		if db, ok = strings.CutSuffix(path, suffix); !ok {
			continue
		}
		f, err := openIncluded(db)
		if err != nil {
			return db, false
		}
		defer f.Close()
		return db, isSQLite(f)
	}
	return "", false
}

func isSQLite(f *os.File) bool {
	head := make([]byte, len(sqliteMagic))
	n, _ := f.ReadAt(head, 0)
	return string(head[:n]) == sqliteMagic
}
