package publishtest

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/zeebo/blake3"
	"golang.org/x/sync/errgroup"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/pack"
	"stepfs/chunkstore/remote"
	"stepfs/internal/schema"
)

// Many is how much larger than a test has time for a bucket is made.
type Many struct {
	Snapshots  int // copies of a snapshot, called many-00000 and so on
	PerCatalog int // a catalog for each so many of them; 0: none
	// Packs of so many chunks each, which nobody reads. Each ref names Needs of
	// them, spread over all, besides those of its snapshot.
	Packs, PerPack, Needs int
}

// atOnce is how many requests are made at a time.
const atOnce = 32

// Make publishes copies of the snapshot of f behind it, and gives their refs.
func (m Many) Make(ctx context.Context, b remote.Bucket, f *bucket.Ref) ([]*bucket.Ref, error) {
	rec, err := schema.DecodeSnapshot(f.Record)
	if err != nil {
		return nil, err
	}
	packs, err := m.putPacks(ctx, b, f)
	if err != nil {
		return nil, err
	}
	refs := make([]*bucket.Ref, m.Snapshots)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for k := range refs {
		named, like := *rec, *f
		named.Name = fmt.Sprintf("many-%05d", k)
		like.Record, like.Seq = named.Encode(), f.Seq+1+uint64(k)
		like.Packs = append([]bucket.Pack{}, f.Packs...)
		for n := range m.Needs {
			like.Packs = append(like.Packs, packs[(k+n*len(packs)/m.Needs)%len(packs)])
		}
		refs[k] = &like
		g.Go(func() error { return b.Put(gctx, like.Key(), remote.Bytes(like.Encode())) })
	}
	if err := g.Wait(); err != nil || m.PerCatalog == 0 {
		return refs, err
	}
	for k := 0; k+m.PerCatalog <= len(refs); k += m.PerCatalog {
		if err := PutCatalog(ctx, b, refs[k:k+m.PerCatalog]); err != nil {
			return refs, err
		}
	}
	return refs, nil
}

// PutCatalog puts a catalog of some refs of a writer.
func PutCatalog(ctx context.Context, b remote.Bucket, refs []*bucket.Ref) error {
	last := refs[len(refs)-1]
	c := &bucket.Catalog{Domain: last.Domain, Writer: last.Writer, First: refs[0].Seq, Last: last.Seq}
	for _, f := range refs {
		c.Refs = append(c.Refs, f.Listed())
	}
	return b.Put(ctx, c.Key(), remote.Bytes(c.Encode()))
}

// putPacks puts packs that nobody reads, and index objects of them.
func (m Many) putPacks(ctx context.Context, b remote.Bucket, f *bucket.Ref) ([]bucket.Pack, error) {
	const first = 1 << 20 // number of the first pack and index object, behind those that are there
	packs, footers := make([]bucket.Pack, m.Packs), make([]bucket.Indexed, m.Packs)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for k := range packs {
		g.Go(func() error {
			data, footer := unreadPack(f.Domain, uint64(k)<<32, m.PerPack)
			at := bucket.Pack{Name: pack.NameOf(footer), Writer: f.Writer, Seq: first + uint64(k), Size: int64(len(data))}
			packs[k], footers[k] = at, bucket.Indexed{Seq: at.Seq, Size: at.Size, Footer: footer}
			return b.Put(gctx, at.Key(), remote.Bytes(data))
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	x := &bucket.Index{Domain: f.Domain, Writer: f.Writer, Seq: first}
	for k, size := 0, 0; k < len(footers); k++ {
		x.Packs = append(x.Packs, footers[k])
		if size += len(footers[k].Footer); size < bucket.IndexSize && k < len(footers)-1 {
			continue
		}
		if err := b.Put(ctx, x.Key(), remote.Bytes(x.Encode())); err != nil {
			return nil, err
		}
		x.Seq, x.Packs, size = x.Seq+1, nil, 0
	}
	return packs, nil
}

// unreadPack is a pack of chunks of one byte, under names that are not theirs.
func unreadPack(domain uint32, seed uint64, chunks int) (data, footer []byte) {
	info := pack.Info{Hash: pack.HashBLAKE3, Domain: domain}
	data = pack.AppendHeader(nil, info)
	var entries []pack.Entry
	for k := range chunks {
		e := pack.Entry{ID: blake3.Sum256(binary.LittleEndian.AppendUint64(nil, seed+uint64(k))), Type: pack.TypeData, Enc: pack.EncRaw,
			Offset: int64(len(data)), Stored: 1, Raw: 1, CRC: pack.Checksum([]byte{1})}
		head := make([]byte, pack.PartHeaderSize)
		pack.PutPartHeader(head, e, domain)
		data = append(append(data, head...), 1)
		entries = append(entries, e)
	}
	at := len(data)
	footer = pack.AppendFooter(nil, pack.Footer{Info: info, Body: int64(at), Entries: entries})
	return pack.AppendTrailer(append(data, footer...), int64(at), len(footer)), footer
}
