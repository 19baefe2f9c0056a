package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"

	"stepfs/chunkstore"
	"stepfs/fs/stage"
	"stepfs/snapshot"
)

// StepStats goes through the files of a snapshot, chunk by chunk, and says of each
// chunk that the step before does not have how it is kept now. It keeps a few bytes
// in memory for each chunk of both.
func (l *local) StepStats(ctx context.Context, r StepStatsRequest, fn func(FileStats) error) (total StepStats, err error) {
	scope, step := splitStep(r.Scope, r.Step)
	found, err := l.Find(ctx, scope, step)
	if err != nil {
		return total, err
	}
	defer l.parts.manager.Pin(found.Sequence)()
	i, err := l.parts.manager.Get(found.Sequence)
	if err != nil {
		return total, fmt.Errorf("reading snapshot %s: %w", found.ID, err)
	}
	before, err := l.stepBefore(i)
	if err != nil {
		return total, err
	}
	total.Event, total.Snapshot = "total", i.Path()
	seen := chunkSet{}
	if before.Seq != 0 {
		defer l.parts.manager.Pin(before.Seq)()
		total.Before = before.Path()
		err := eachFile(ctx, l.parts.tree.At(before.Seq), scopeOf(before), "", func(view *stage.View, _ string, a stage.Attr) error {
			es, _, err := view.Chunks(a.Ino)
			for _, e := range es {
				seen.add(e.ID)
			}
			return err
		})
		if err != nil {
			return total, fmt.Errorf("reading %s: %w", total.Before, err)
		}
	}
	linked := map[uint64]bool{}
	err = eachFile(ctx, l.parts.tree.At(i.Seq), scopeOf(i), "", func(view *stage.View, path string, a stage.Attr) error {
		if a.Nlink > 1 && linked[a.Ino] {
			return nil // under another name
		}
		linked[a.Ino] = linked[a.Ino] || a.Nlink > 1
		f := FileStats{Event: "file", Path: path}
		if f.Saved, err = l.saved(view, a, seen); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		total.Files++
		total.Saved.add(f.Saved)
		if !r.Files {
			return nil
		}
		return fn(f)
	})
	if err != nil {
		return total, fmt.Errorf("reading %s: %w", total.Snapshot, err)
	}
	return total, nil
}

// stepBefore gives the newest kept step of the same scope before one, or none.
func (l *local) stepBefore(i snapshot.Info) (before snapshot.Info, err error) {
	const page = 1024
	for after := uint64(0); ; {
		is, err := l.parts.manager.Barriers(after, page)
		if err != nil {
			return before, fmt.Errorf("listing snapshots: %w", err)
		}
		for _, b := range is {
			if b.Seq >= i.Seq {
				return before, nil
			}
			if b.Name != "" && b.Scope == i.Scope {
				before = b
			}
			after = b.Seq
		}
		if len(is) < page {
			return before, nil
		}
	}
}

// chunkSet is of chunks, known by the first half of what is random in their names.
type chunkSet map[[16]byte]struct{}

// add says whether the chunk was there.
func (s chunkSet) add(id [32]byte) bool {
	k := [16]byte(id[:16])
	_, was := s[k]
	s[k] = struct{}{}
	return was
}

// eachFile calls fn for each regular file below a directory, by path.
func eachFile(ctx context.Context, view *stage.View, dir uint64, at string, fn func(view *stage.View, path string, a stage.Attr) error) error {
	for after := ""; ; {
		entries, err := view.ReadDir(dir, after, dirPage)
		if err != nil || len(entries) == 0 {
			return err
		}
		for _, e := range entries {
			if err := ctx.Err(); err != nil {
				return err
			}
			after = e.Name
			name := path.Join(at, e.Name)
			switch e.Type {
			case stage.ModeDir:
				err = eachFile(ctx, view, e.Ino, name, fn)
			case stage.ModeReg:
				var a stage.Attr
				if a, err = view.GetAttr(e.Ino); err == nil {
					err = fn(view, name, a)
				}
			}
			if err != nil {
				return err
			}
		}
	}
}

// saved says what became of the bytes of a file.
func (l *local) saved(view *stage.View, a stage.Attr, seen chunkSet) (s Saved, err error) {
	s.Size = a.Size
	es, ok, err := view.Chunks(a.Ino)
	if err != nil {
		return s, err
	}
	if !ok {
		s.Staged = min(a.Size, a.Blocks*512)
		s.Holes = a.Size - s.Staged
		return s, nil
	}
	s.Holes = a.Size
	for _, e := range es {
		n := int64(e.Len)
		s.Holes -= n
		if seen.add(e.ID) {
			s.Duplicate += n
			continue
		}
		as, stored, err := l.parts.chunks.Kept(e.ID)
		if errors.Is(err, chunkstore.ErrMissing) {
			s.Missing += n
			continue
		}
		if err != nil {
			return s, err
		}
		where := s.kept(as)
		where.Plain += n
		where.Stored += stored
	}
	return s, nil
}

func (s *Saved) kept(as string) *SavedAs {
	switch as {
	case chunkstore.KeptDelta:
		return &s.Delta
	case chunkstore.KeptPlanes:
		return &s.Planes
	case chunkstore.KeptZstd:
		return &s.Zstd
	}
	return &s.Raw
}

// stored is what all of it takes that was not there before.
func (s *Saved) stored() int64 {
	return s.Delta.Stored + s.Planes.Stored + s.Zstd.Stored + s.Raw.Stored
}

func (s *Saved) add(o Saved) {
	s.Size += o.Size
	s.Holes += o.Holes
	s.Staged += o.Staged
	s.Duplicate += o.Duplicate
	s.Missing += o.Missing
	for _, as := range []string{chunkstore.KeptDelta, chunkstore.KeptPlanes, chunkstore.KeptZstd, chunkstore.KeptRaw} {
		s.kept(as).Plain += o.kept(as).Plain
		s.kept(as).Stored += o.kept(as).Stored
	}
}

// stepStats prints what a step brought.
func stepStats(ctx context.Context, s service, r StepStatsRequest, out io.Writer, json bool) error {
	t := table(out)
	if r.Files && !json {
		fmt.Fprintln(t, "SIZE\tDUPLICATE\tDELTA\tPLANES\tZSTD\tRAW\tTAKES\tFILE")
	}
	total, err := s.StepStats(ctx, r, func(f FileStats) error {
		if json {
			return printJSON(out, f)
		}
		for _, n := range []int64{f.Size, f.Duplicate, f.Delta.Plain, f.Planes.Plain, f.Zstd.Plain, f.Raw.Plain, f.stored()} {
			fmt.Fprintf(t, "%s\t", humanBytes(n))
		}
		_, err := fmt.Fprintln(t, f.Path)
		return err
	})
	if err != nil {
		return err
	}
	if json {
		return printJSON(out, total)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if r.Files {
		fmt.Fprintln(out)
	}
	return total.print(out)
}

func (s *StepStats) print(out io.Writer) error {
	against := "nothing: no step before it is kept"
	if s.Before != "" {
		against = s.Before
	}
	fmt.Fprintf(out, "%s: %d files, compared with %s\n", s.Snapshot, s.Files, against)
	t := table(out)
	line := func(name string, plain, stored int64) {
		if plain > 0 || stored > 0 {
			fmt.Fprintf(t, "%s\t%s\ttakes %s\tsaves %s\n", name, humanBytes(plain), humanBytes(stored), humanBytes(plain-stored))
		}
	}
	line("duplicate chunks", s.Duplicate, 0)
	line("deltas", s.Delta.Plain, s.Delta.Stored)
	line("float planes", s.Planes.Plain, s.Planes.Stored)
	line("zstd", s.Zstd.Plain, s.Zstd.Stored)
	line("raw", s.Raw.Plain, s.Raw.Stored)
	line("holes", s.Holes, 0)
	if s.Staged > 0 {
		fmt.Fprintf(t, "not stored yet\t%s\n", humanBytes(s.Staged))
	}
	if s.Missing > 0 {
		fmt.Fprintf(t, "MISSING\t%s\n", humanBytes(s.Missing))
	}
	line("all", s.Size-s.Staged, s.stored())
	return t.Flush()
}
