package chunkstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore/codec"
	"stepfs/chunkstore/pack"
)

// A pack whose footer is damaged is no pack any more, but its parts say of
// themselves what the footer said of them (docs/FORMAT.md). Salvage looks for
// them and writes those that prove to be whole into a new pack. The damaged file
// stays as it is; it is the caller's to move away, once the new one is durable.

// Salvaged is what was saved of a damaged pack.
type Salvaged struct {
	Chunks, Bytes uint64   // that were saved; payload bytes
	Broken        uint64   // parts that were found and are not whole
	Into          []string // packs that have them now
}

// Salvage saves what can be read of the pack file in dir. With dry it only looks.
// The same file always gives the same new packs, so it can be done again.
func Salvage(ctx context.Context, fs vfs.FS, dir, file string, cfg Config, dry bool) (Salvaged, error) {
	w := &salvager{ctx: ctx, fs: fs, dir: dir, file: file, domain: cfg.Domain, dry: dry, seen: map[ID]bool{}}
	c := codec.NewCoder()
	defer c.Close()
	keys, h := cfg.namings(), newHasher(cfg.Key)
	w.whole = func(e pack.Entry, payload []byte) bool {
		if pack.Checksum(payload) != e.CRC {
			return false
		}
		if e.Enc == pack.EncDelta {
			return true // it takes another chunk to decode; whoever reads it checks its name
		}
		plain := payload
		if e.Enc != pack.EncRaw {
			plain = make([]byte, e.Raw)
			if decodeWith(c, e.Enc, payload, plain, nil) != nil {
				return false
			}
		}
		naming, ok := keys.by(h, e.ID, plain)
		if ok && (!w.proven || naming < w.naming) {
			w.naming, w.proven = naming, true
		}
		return ok
	}
	if err := w.run(); err != nil {
		return w.Salvaged, fmt.Errorf("salvage %s: %w", file, err)
	}
	return w.Salvaged, nil
}

type salvager struct {
	Salvaged
	ctx    context.Context
	fs     vfs.FS
	dir    string
	file   string
	domain uint32
	dry    bool
	whole  func(e pack.Entry, payload []byte) bool
	// The key by which the chunks are named, as far as one has proved it; until then
	// the store's first, which costs nothing but room (naming.go).
	naming uint8
	proven bool
	seen   map[ID]bool

	out     vfs.File // nil: none is open
	tmp     string
	off     int64
	entries []pack.Entry
}

const (
	salvageWindow = 1 << 20
	salvagePack   = 64 << 20 // a new pack is closed at this size,
	salvageChunks = 2048     // or with so many chunks
)

var partMark = []byte("sfCh") // with which a part begins

func (w *salvager) run() error {
	in, err := w.fs.Open(w.fs.PathJoin(w.dir, w.file))
	if err != nil {
		return err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return err
	}
	err = w.scan(in, st.Size())
	if err == nil {
		err = w.finish()
	}
	if w.out != nil {
		err = errors.Join(err, w.out.Close(), w.fs.Remove(w.tmp))
	}
	return err
}

// scan looks for parts at every place where one could begin.
func (w *salvager) scan(in vfs.File, size int64) error {
	window := make([]byte, salvageWindow)
	for off := int64(0); off < size; {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		n, err := readAround(in, window[:min(salvageWindow, size-off)], off)
		if err != nil {
			return err
		}
		b := window[:n]
		at := bytes.Index(b, partMark)
		switch {
		case n == 0:
			return nil
		case at < 0 && off+int64(n) >= size:
			return nil
		case at < 0:
			off += int64(n - len(partMark) + 1)
			continue
		case at > 0 && n-at < pack.PartHeaderSize+pack.MaxExt && off+int64(n) < size:
			off += int64(at) // all of its header is wanted in the window
			continue
		}
		next, err := w.part(in, b[at:], off+int64(at), size)
		if err != nil {
			return err
		}
		off = next
	}
	return nil
}

// sector is how much is given up where the disk gives an error.
const sector = 4096

// readAround reads as much of b as the file has. What the disk does not give is
// zeros: no part that it belongs to proves to be whole.
func readAround(in vfs.File, b []byte, off int64) (n int, err error) {
	if n, err = in.ReadAt(b, off); err == nil || errors.Is(err, io.EOF) {
		return n, nil
	}
	for n = 0; n < len(b) && (err == nil || badSector(err)); {
		to := min(len(b), n+sector-int((off+int64(n))%sector))
		var k int
		if k, err = in.ReadAt(b[n:to], off+int64(n)); badSector(err) {
			clear(b[n:to])
			k = to - n
		}
		n += k
	}
	if errors.Is(err, io.EOF) || badSector(err) {
		err = nil
	}
	return n, err
}

// part saves the part that may begin with head at an offset, and gives where to
// go on.
func (w *salvager) part(in vfs.File, head []byte, at, size int64) (next int64, err error) {
	e, domain, err := pack.ParsePartHeader(head)
	e.Offset = at
	if err != nil || domain != w.domain || e.End() > size {
		return at + 1, nil
	}
	payload := make([]byte, e.Stored)
	if n, err := readAround(in, payload, e.PayloadOffset()); err != nil || n < len(payload) {
		return 0, errors.Join(err, io.ErrUnexpectedEOF)
	}
	if !w.whole(e, payload) {
		w.Broken++
		return at + 1, nil
	}
	if w.seen[e.ID] {
		return e.End(), nil
	}
	w.seen[e.ID] = true
	w.Chunks++
	w.Bytes += uint64(e.Stored)
	if w.dry {
		return e.End(), nil
	}
	return e.End(), w.save(e, payload)
}

// save writes a part into the new pack.
func (w *salvager) save(e pack.Entry, payload []byte) error {
	if w.out == nil {
		w.tmp = w.fs.PathJoin(w.dir, fmt.Sprintf("%016x%s", uint64(0), tmpSuffix))
		out, err := w.fs.Create(w.tmp, "stepfs-pack")
		if err != nil {
			return err
		}
		w.out, w.off, w.entries = out, 0, nil
		if err := w.put(pack.AppendHeader(nil, w.info())); err != nil {
			return err
		}
	}
	e.Offset = w.off
	head := make([]byte, pack.PartHeaderSize)
	pack.PutPartHeader(head, e, w.domain)
	w.entries = append(w.entries, e)
	for _, b := range [][]byte{head, e.Ext, payload} {
		if err := w.put(b); err != nil {
			return err
		}
	}
	if w.off >= salvagePack || len(w.entries) >= salvageChunks {
		return w.finish()
	}
	return nil
}

func (w *salvager) info() pack.Info { return pack.Info{Hash: pack.HashBLAKE3, Domain: w.domain} }

func (w *salvager) put(b []byte) error {
	n, err := w.out.Write(b)
	w.off += int64(n)
	return err
}

// finish makes the new pack durable, and then gives it its name.
func (w *salvager) finish() error {
	if w.out == nil {
		return nil
	}
	// Were nothing but the trailer damaged, the new pack would have the old one's
	// name.
	name, footer := w.file, []byte(nil)
	for salt := uint32(0); name == w.file; salt++ {
		footer = pack.AppendFooter(nil, pack.Footer{Info: w.info(), Body: w.off, Naming: w.naming, Entries: w.entries, Salt: salt})
		name = pack.NameOf(footer).FileName()
	}
	err := w.put(pack.AppendTrailer(footer, w.off, len(footer)))
	if err == nil {
		err = w.out.Sync()
	}
	if err != nil {
		return err
	}
	if err := w.out.Close(); err != nil {
		return err
	}
	w.out = nil
	if err := w.fs.Rename(w.tmp, w.fs.PathJoin(w.dir, name)); err != nil {
		return err
	}
	w.Into = append(w.Into, name)
	d, err := w.fs.OpenDir(w.dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
