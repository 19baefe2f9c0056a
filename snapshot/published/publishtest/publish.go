// Package publishtest puts what a store has into a bucket, by the letter of
// docs/FORMAT.md and nothing else: for tests of what reads it there.
package publishtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/pack"
	"stepfs/chunkstore/remote"
	"stepfs/internal/schema"
	"stepfs/internal/state"
	"stepfs/internal/storedir"
)

// Publish publishes each drained step of a store that nobody has open, as
// writer w. Every ref names every pack of the store.
func Publish(ctx context.Context, store string, b remote.Bucket, w bucket.Writer) (refs []*bucket.Ref, err error) {
	dir, err := storedir.Open(store, storedir.Options{Command: "test"})
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	cfg := dir.Config()
	_, err = bucket.Join(ctx, b, &bucket.Config{ID: cfg.ID, Created: cfg.Created, Writer: w,
		Polynomial: cfg.Polynomial, Key: cfg.Key, Domain: cfg.Domain})
	if err != nil {
		return nil, err
	}
	p := &publisher{ctx: ctx, bucket: b, writer: w, domain: cfg.Domain, roots: map[[32]byte]place{}}
	if err := p.putPacks(dir.Join("packs")); err != nil {
		return nil, err
	}
	err = eachStep(dir.Path(), func(seq uint64, record []byte, s *schema.Snapshot) error {
		f, err := p.putRef(seq, record, s.Tree)
		refs = append(refs, f)
		return err
	})
	return refs, err
}

type publisher struct {
	ctx    context.Context
	bucket remote.Bucket
	writer bucket.Writer
	domain uint32

	packs []bucket.Pack
	roots map[[32]byte]place // of all directory objects
	refs  uint64
}

type place struct {
	pack int
	raw  uint32
}

// putPacks puts all packs, and for every two of them an index object.
func (p *publisher) putPacks(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*"+pack.Suffix))
	if err != nil {
		return err
	}
	x := &bucket.Index{Domain: p.domain, Writer: p.writer, Seq: 1}
	for k, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f, name, err := pack.ReadFooter(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		at := bucket.Pack{Name: name, Writer: p.writer, Seq: uint64(k + 1), Size: int64(len(b))}
		if err := p.bucket.Put(p.ctx, at.Key(), remote.Bytes(b)); err != nil {
			return err
		}
		for _, e := range f.Entries {
			if e.Type == pack.TypeTree {
				p.roots[e.ID] = place{k, e.Raw}
			}
		}
		p.packs = append(p.packs, at)
		x.Packs = append(x.Packs, bucket.Indexed{Seq: at.Seq, Size: at.Size, Footer: b[f.Body : len(b)-pack.TrailerSize]})
		if len(x.Packs) < 2 && k < len(files)-1 {
			continue
		}
		if err := p.bucket.Put(p.ctx, x.Key(), remote.Bytes(x.Encode())); err != nil {
			return err
		}
		x.Seq, x.Packs = x.Seq+1, nil
	}
	return nil
}

func (p *publisher) putRef(seq uint64, record []byte, root [32]byte) (*bucket.Ref, error) {
	at, ok := p.roots[root]
	if !ok {
		return nil, fmt.Errorf("the root of snapshot %d is in no pack", seq)
	}
	p.refs++
	f := &bucket.Ref{Domain: p.domain, Writer: p.writer, Seq: p.refs, Snapshot: seq, Record: record, Root: root, RootLen: at.raw,
		Packs: append([]bucket.Pack{p.packs[at.pack]}, append(append([]bucket.Pack{}, p.packs[:at.pack]...), p.packs[at.pack+1:]...)...)}
	_, err := p.bucket.PutIfAbsent(p.ctx, f.Key(), remote.Bytes(f.Encode()))
	return f, err
}

// eachStep calls fn for the steps of a store that are stored whole.
func eachStep(store string, fn func(seq uint64, record []byte, s *schema.Snapshot) error) (err error) {
	e, err := state.Open(state.Config{Dir: store, FS: vfs.Default, BootID: storedir.BootID()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close(true)) }()
	prefix := []byte{schema.PrefixSnapshot}
	it, err := e.NewIter(prefix, schema.After(prefix))
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		s, err := schema.DecodeSnapshot(v)
		if err != nil {
			return err
		}
		if !s.Drained || s.Tree == [32]byte{} {
			continue
		}
		seq, err := schema.ParseNumbered(it.Key())
		if err == nil {
			err = fn(seq, bytes.Clone(v), s)
		}
		if err != nil {
			return err
		}
	}
	return it.Error()
}
