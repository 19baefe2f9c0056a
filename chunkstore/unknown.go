package chunkstore

import (
	"context"
	"fmt"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore/pack"
)

// Unknown is a pack file that the index does not know.
type Unknown struct {
	Name    string
	Objects [][]byte // the directory objects in it that read back and begin with one of the kinds asked for
}

// UnknownPacks gives the packs in dir that no record names, with their objects of
// a kind (their first byte). Files without a footer that can be used are passed
// over. It changes nothing.
func UnknownPacks(ctx context.Context, db DB, fs vfs.FS, dir string, cfg Config, kind byte) ([]Unknown, error) {
	out, err := unknownPacks(ctx, db, fs, dir, cfg, kind)
	if err != nil {
		return nil, fmt.Errorf("look for packs that the index does not know: %w", err)
	}
	return out, nil
}

func unknownPacks(ctx context.Context, db DB, fs vfs.FS, dir string, cfg Config, kind byte) (out []Unknown, err error) {
	records, err := allPacks(db)
	if err != nil {
		return nil, err
	}
	known := map[pack.Name]bool{}
	for _, rec := range records {
		known[rec.Name] = true
	}
	files, err := filesByAge(fs, dir)
	if err != nil {
		return nil, err
	}
	var s *Store
	for _, f := range files {
		if known[f.name] {
			continue
		}
		if s == nil {
			if s, err = newStore(db, fs, dir, cfg); err != nil {
				return nil, err
			}
			defer (&Reader{s}).Close()
		}
		foot, err := s.readFooter(f.name)
		if err != nil {
			continue
		}
		u := Unknown{Name: f.name.FileName()}
		for _, e := range foot.Entries {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if e.Type != pack.TypeTree {
				continue
			}
			b := make([]byte, e.Raw)
			rec := packRecord(cfg.Domain, f.name, foot)
			if err := s.fetch(e.ID, chunkLoc(0, e), *rec, b); err == nil && len(b) > 0 && b[0] == kind {
				u.Objects = append(u.Objects, b)
			}
		}
		out = append(out, u)
	}
	return out, nil
}
