package snapshot

import (
	"errors"
	"fmt"
	"slices"

	"stepfs/internal/schema"
	"stepfs/internal/state"
	"stepfs/snapshot/include"
)

// dir replays a directory and all below it. whole: nothing of it is lost.
func (w *rebuild) dir(ino uint64, object [32]byte, path string) (whole bool, err error) {
	if err := w.ctx.Err(); err != nil {
		return false, err
	}
	if w.tree.Same(ino, object) {
		w.holdAll(object)
		return true, nil
	}
	d, err := w.tree.Dir(ino)
	if err != nil {
		return false, err
	}
	p := &dirReplay{rebuild: w, to: d, path: path, whole: true}
	if err := p.object(object); err != nil {
		return false, errors.Join(err, d.Close())
	}
	if err := d.Done(); err != nil {
		return false, err
	}
	for _, sub := range p.subs {
		ok, err := w.dir(sub.ino, sub.object, sub.path)
		if err != nil {
			return false, fmt.Errorf("%s: %w", sub.path, err)
		}
		p.whole = p.whole && ok
	}
	if p.whole {
		w.tree.Know(ino, object)
	}
	return p.whole, nil
}

// holdAll has the step hold an object and all below it.
func (w *rebuild) holdAll(id [32]byte) {
	if _, again := w.holds[id]; again {
		return
	}
	w.holds[id] = struct{}{}
	for _, b := range w.below[id] {
		w.holdAll(b)
	}
}

// dirReplay is one directory on its way.
type dirReplay struct {
	*rebuild
	to    RebuiltDir
	path  string
	last  string // name that was put last
	subs  []subdir
	whole bool
}

type subdir struct {
	ino    uint64
	object [32]byte
	path   string
}

// object replays what a directory's object says: a page, or an index of pages.
func (p *dirReplay) object(id [32]byte) error {
	p.holds[id] = struct{}{}
	b, err := p.read(id)
	if err != nil {
		return err
	}
	if len(b) > 0 && b[0] == schema.ObjectIndex {
		pages, err := schema.DecodePages(b)
		if err == nil {
			p.below[id] = refIDs(pages)
			for _, page := range pages {
				if err := p.page(page.ID, "some of its names are lost"); err != nil {
					return err
				}
			}
			return nil
		}
	}
	return p.entries(id, b, "its names are lost")
}

func refIDs(refs []schema.ObjectRef) (ids [][32]byte) {
	for _, r := range refs {
		ids = append(ids, r.ID)
	}
	return ids
}

func (p *dirReplay) page(id [32]byte, lost string) error {
	p.holds[id] = struct{}{}
	b, err := p.read(id)
	if err != nil {
		return err
	}
	return p.entries(id, b, lost)
}

// entries replays a page; b is nil if it is lost.
func (p *dirReplay) entries(id [32]byte, b []byte, lost string) error {
	es, err := schema.DecodePage(b)
	if err == nil && len(es) > 0 && es[0].Name <= p.last {
		err = schema.ErrCorrupt
	}
	if err != nil {
		p.whole = false
		p.lose(p.path, lost)
		return nil
	}
	var below [][32]byte
	for k := range es {
		e := &es[k]
		if e.IsDir() {
			below = append(below, e.Dir.ID)
		}
		below = append(below, refIDs(e.Pages)...)
		if err := p.entry(e); err != nil {
			return fmt.Errorf("%s: %w", e.Name, err)
		}
	}
	p.below[id] = below
	return nil
}

func (p *dirReplay) entry(e *schema.TreeEntry) error {
	path := e.Name
	if p.path != "" {
		path = p.path + "/" + e.Name
	}
	var c schema.TreeContent
	if e.IsReg() {
		var err error
		if c, err = p.content(e, path); err != nil {
			return err
		}
	}
	ino, err := p.to.Put(e, c)
	if err != nil {
		return err
	}
	p.last = e.Name
	if p.path == "" && e.Name == include.Dir {
		p.root.stays = true
	}
	if e.IsDir() {
		p.subs = append(p.subs, subdir{ino, e.Dir.ID, path})
	}
	return nil
}

// content reads where a file's bytes lie, and looks whether they are there.
func (p *dirReplay) content(e *schema.TreeEntry, path string) (c schema.TreeContent, err error) {
	c.Chunks = e.Chunks
	end := int64(0) // of what is known
	gap := false
	for _, ref := range e.Pages {
		p.holds[ref.ID] = struct{}{}
		b, err := p.read(ref.ID)
		if err != nil {
			return c, err
		}
		es, err := schema.DecodeExtents(b)
		if err != nil || len(es) == 0 || es[0].Off < end || !schema.InOrder(es, e.Size) {
			gap = true
			continue
		}
		if gap {
			c.Lost = append(c.Lost, schema.Range{Off: end, Len: es[0].Off - end})
			gap = false
		}
		c.Chunks = append(c.Chunks, es...)
		end = es[len(es)-1].Off + int64(es[len(es)-1].Len)
	}
	if gap && end < e.Size {
		c.Lost = append(c.Lost, schema.Range{Off: end, Len: e.Size - end})
	}
	c.Lost = slices.DeleteFunc(c.Lost, func(r schema.Range) bool { return r.Len <= 0 })
	missing := 0
	for _, x := range c.Chunks {
		_, err := p.cfg.DB.Get(schema.ChunkKey(p.cfg.Domain, x.ID))
		if errors.Is(err, state.ErrNotFound) {
			missing++
		} else if err != nil {
			return c, err
		}
	}
	switch {
	case len(c.Lost) > 0:
		p.lose(path, "where its content lies is lost")
	case missing > 0:
		p.lose(path, fmt.Sprintf("%d of its %d chunks are lost", missing, len(c.Chunks)))
	default:
		return c, nil
	}
	p.whole = false
	return c, nil
}
