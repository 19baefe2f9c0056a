package stage

import (
	"cmp"
	"errors"
	"slices"

	"stepfs/internal/schema"
)

// inode makes an inode's newest version what an entry of dir says, and gives its
// number and the version of before, if it was there.
func (r *Rebuilder) inode(dir uint64, e *schema.TreeEntry, c schema.TreeContent) (uint64, *schema.Inode, error) {
	ino, cur, err := r.number(e)
	if err != nil {
		return 0, nil, err
	}
	rec := &schema.Inode{Mode: e.Mode, Nlink: e.Nlink, UID: e.UID, GID: e.GID, Rdev: e.Rdev,
		Atime: e.Mtime, Ctime: e.Ctime, Btime: e.Ctime, Parent: dir, Name: e.Name,
		Marked: e.Mark == "open", Reverted: e.Mark == "reverted"}
	rec.Live.Mtime = e.Mtime
	old := cur.rec
	if old != nil && old.Deleted {
		old = nil
	}
	if old != nil {
		rec.Btime = old.Btime
		if !e.IsDir() && old.Nlink > 1 && e.Nlink > 1 { // of several names it knows one
			rec.Parent, rec.Name = old.Parent, old.Name
		}
	}
	switch {
	case e.IsReg():
		if rec.Live, err = r.content(ino, e, old, c); err != nil {
			return 0, nil, err
		}
		committed := rec.Live
		rec.Committed = &committed
	case e.IsLink():
		rec.Live.Len = int64(len(e.Target))
		r.put(schema.Numbered(schema.PrefixSymlink, ino), []byte(e.Target))
	}
	if err := r.xattrs(ino, e.Xattrs); err != nil {
		return 0, nil, err
	}
	if old != nil && sameInode(old, rec) {
		return ino, old, nil
	}
	r.write(ino, cur, rec)
	return ino, old, nil
}

// sameInode says whether two versions show the same, and lie in the same place.
func sameInode(a, b *schema.Inode) bool {
	return a.Mode == b.Mode && a.Nlink == b.Nlink && a.UID == b.UID && a.GID == b.GID && a.Rdev == b.Rdev &&
		a.Ctime == b.Ctime && a.Parent == b.Parent && a.Name == b.Name && a.Live == b.Live &&
		a.Marked == b.Marked && a.Reverted == b.Reverted
}

// number gives the number of an entry's inode, and its newest version. Another
// inode may have the entry's number: one of another kind, a link to elsewhere, or
// one that this very state shows otherwise.
func (r *Rebuilder) number(e *schema.TreeEntry) (uint64, version, error) {
	key := aliasKey{e.Ino, e.Mode & ModeType, e.Target}
	ino, ok := r.alias[key]
	if !ok {
		ino = e.Ino
	}
	cur, err := r.newest(ino)
	if err != nil || cur.rec == nil {
		return ino, cur, err
	}
	other := cur.rec.Mode&ModeType != e.Mode&ModeType
	if !other && e.IsLink() {
		target, err := r.target(ino)
		if err != nil {
			return 0, cur, err
		}
		other = target != e.Target
	}
	if !other && e.IsReg() && cur.seq == r.seq && !cur.rec.Deleted {
		c := cur.rec.Live
		other = c.Len != e.Size || c.Alloc != e.Alloc || c.Mtime != e.Mtime || cur.rec.Ctime != e.Ctime
	}
	if !other {
		return ino, cur, nil
	}
	r.ino++
	r.alias[key] = r.ino
	return r.ino, version{}, nil
}

func (r *Rebuilder) target(ino uint64) (string, error) {
	key := schema.Numbered(schema.PrefixSymlink, ino)
	if v, ok := r.puts[string(key)]; ok {
		return string(v), nil
	}
	v, err := r.db.Get(key)
	return string(v), ignoreGone(err)
}

// content gives what a file holds: what it held before, or a new generation.
func (r *Rebuilder) content(ino uint64, e *schema.TreeEntry, old *schema.Inode, c schema.TreeContent) (schema.Content, error) {
	if old != nil && old.Live.Len == e.Size && old.Live.Alloc == e.Alloc {
		same := false
		if v, fresh := r.inodes[ino]; fresh && v.seq == r.seq { // another of its names: see number
			same = true
		} else if had, err := r.chunkMap(old.Live.Gen); err != nil {
			return schema.Content{}, err
		} else {
			same = slices.Equal(had, c.Chunks)
		}
		if same {
			live := old.Live
			live.Mtime = e.Mtime
			return live, nil
		}
	}
	if e.Size == 0 {
		return schema.Content{Mtime: e.Mtime}, nil
	}
	r.gen++
	r.put(schema.Numbered(schema.PrefixGen, r.gen), schema.Generation{Ino: ino, Stored: e.Size}.Encode())
	for p, list := range chunkPages(c.Chunks) {
		r.put(schema.ChunkMapKey(r.gen, p), schema.EncodeChunkMap(list))
	}
	ranges := slices.Clone(c.Lost)
	for _, x := range c.Chunks {
		r.put(schema.ChunkRefKey(r.domain, x.ID, r.gen), nil)
		ranges = append(ranges, schema.Range{Off: x.Off, Len: int64(x.Len)})
	}
	slices.SortFunc(ranges, func(a, b schema.Range) int { return cmp.Compare(a.Off, b.Off) })
	r.stripes(ino, ranges)
	return schema.Content{Gen: r.gen, Base: r.gen, Len: e.Size, Alloc: e.Alloc, Mtime: e.Mtime}, nil
}

// chunkMap gives the chunks of a generation that may not be written yet.
func (r *Rebuilder) chunkMap(gen uint64) ([]schema.ChunkExtent, error) {
	if gen == 0 {
		return nil, nil
	}
	if _, fresh := r.puts[string(schema.Numbered(schema.PrefixGen, gen))]; fresh {
		if err := r.flush(); err != nil {
			return nil, err
		}
	}
	return chunkMapIn(r.db, gen)
}

// stripes has a file's stripes name its new generation in these ranges.
func (r *Rebuilder) stripes(ino uint64, ranges []schema.Range) {
	at, fs := int64(-1), []schema.Fragment(nil)
	end := func() {
		if at >= 0 {
			r.put(schema.StripeKey(ino, uint32(at), r.gen), schema.EncodeStripe(fs))
		}
	}
	for _, s := range ranges {
		for off, stop := s.Off, s.Off+s.Len; off < stop; {
			if s := off / stripeSize; s != at {
				end()
				at, fs = s, nil
			}
			n := min(stop, (at+1)*stripeSize) - off
			fs = schema.Overlay(fs, uint32(off-at*stripeSize), uint32(n), r.gen)
			off += n
		}
	}
	end()
}

// xattrs makes an inode's extended attributes those of an entry.
func (r *Rebuilder) xattrs(ino uint64, want []schema.NamedValue) error {
	if _, may := r.marked[ino]; !may && len(want) == 0 {
		return nil
	}
	r.marked[ino] = struct{}{}
	if err := r.flush(); err != nil {
		return err
	}
	have, err := r.haveXattrs(ino)
	if err != nil || sameXattrs(have, want) {
		return err
	}
	set := func(name string, next schema.Xattr) {
		cur := have[name]
		next.HasOlder = cur.found && (cur.seq != r.seq || cur.HasOlder)
		if cur.found && cur.seq != r.seq {
			r.put(schema.DeathKey(r.prev+1, schema.XattrKey(ino, name, cur.seq)), nil)
		}
		r.put(schema.XattrKey(ino, name, r.seq), next.Encode())
	}
	wanted := map[string]bool{}
	for _, w := range want {
		wanted[w.Name] = true
		if x := have[w.Name]; !x.live() || string(x.Value) != string(w.Value) {
			set(w.Name, schema.Xattr{Value: w.Value})
		}
	}
	for name, x := range have {
		if x.live() && !wanted[name] {
			set(name, schema.Xattr{Gone: true})
		}
	}
	return nil
}

func (r *Rebuilder) haveXattrs(ino uint64) (map[string]xattr, error) {
	prefix := schema.XattrInode(ino)
	it, err := r.db.NewIter(prefix, schema.After(prefix))
	if err != nil {
		return nil, err
	}
	out := map[string]xattr{}
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		name, seq, e := schema.ParseXattrKey(it.Key())
		if err = e; err != nil {
			break
		}
		if _, newer := out[name]; newer {
			continue
		}
		x, e := schema.DecodeXattr(it.Value())
		out[name], err = xattr{x, seq, true}, e
	}
	return out, errors.Join(err, it.Error(), it.Close())
}
