// Package mem is a remote.Bucket in memory, for tests: what the contract leaves
// undefined it refuses.
package mem

import (
	"context"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"stepfs/chunkstore/remote"
)

// Bucket holds objects in memory. The zero value is not one: see New.
type Bucket struct {
	mu struct {
		sync.Mutex
		objects map[string]object
		changes int // versions given out
	}
}

type object struct {
	bytes []byte // never changed
	info  remote.Info
}

// New gives an empty bucket.
func New() *Bucket {
	b := &Bucket{}
	b.mu.objects = map[string]object{}
	return b
}

func (b *Bucket) String() string { return "mem:" }

// Put implements remote.Bucket.
func (b *Bucket) Put(ctx context.Context, key string, c remote.Content) error {
	_, err := b.put(ctx, "put", key, c, func(object, bool) error { return nil })
	return err
}

// PutIfAbsent implements remote.Bucket.
func (b *Bucket) PutIfAbsent(ctx context.Context, key string, c remote.Content) (string, error) {
	return b.put(ctx, "put", key, c, func(_ object, there bool) error {
		if there {
			return remote.Fail("put", key, remote.ErrExists, nil)
		}
		return nil
	})
}

// ReplaceIfMatch implements remote.Bucket.
func (b *Bucket) ReplaceIfMatch(ctx context.Context, key, version string, c remote.Content) (string, error) {
	if err := remote.CheckReplace("replace", key, version, c); err != nil {
		return "", err
	}
	return b.put(ctx, "replace", key, c, func(o object, there bool) error {
		if !there || o.info.Version != version {
			return remote.Fail("replace", key, remote.ErrChanged, nil)
		}
		return nil
	})
}

// put makes an object if allowed says that what is there may be replaced.
func (b *Bucket) put(ctx context.Context, op, key string, c remote.Content, allowed func(o object, there bool) error) (string, error) {
	if err := remote.CheckPut(op, key, c); err != nil {
		return "", err
	}
	data, err := c.Load(ctx)
	if err != nil {
		return "", remote.PutFailed(ctx, op, key, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	o, there := b.mu.objects[key]
	if err := allowed(o, there); err != nil {
		return "", err
	}
	for other := range b.mu.objects {
		if strings.HasPrefix(other, key+"/") || strings.HasPrefix(key, other+"/") {
			return "", remote.Invalid(op, key, "a key would be an object and a prefix: %s", other)
		}
	}
	b.mu.changes++
	info := remote.Info{Size: c.Size, Version: strconv.Itoa(b.mu.changes), Modified: time.Now()}
	b.mu.objects[key] = object{data, info}
	return info.Version, nil
}

// find gives an object.
func (b *Bucket) find(ctx context.Context, op, key string) (object, error) {
	if err := remote.Ended(ctx, op, key); err != nil {
		return object{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	o, there := b.mu.objects[key]
	if !there {
		return object{}, remote.Fail(op, key, remote.ErrNotExist, nil)
	}
	return o, nil
}

// Get implements remote.Bucket.
func (b *Bucket) Get(ctx context.Context, key string, p []byte, off int64) (int, remote.Info, error) {
	if err := remote.CheckGet("get", key, off); err != nil {
		return 0, remote.Info{}, err
	}
	o, err := b.find(ctx, "get", key)
	if err != nil {
		return 0, remote.Info{}, err
	}
	n := copy(p, o.bytes[min(off, o.info.Size):])
	if n < len(p) {
		return n, o.info, io.EOF
	}
	return n, o.info, nil
}

// Stat implements remote.Bucket.
func (b *Bucket) Stat(ctx context.Context, key string) (remote.Info, error) {
	if err := remote.CheckKey("stat", key); err != nil {
		return remote.Info{}, err
	}
	o, err := b.find(ctx, "stat", key)
	return o.info, err
}

// List implements remote.Bucket.
func (b *Bucket) List(ctx context.Context, prefix, after string) iter.Seq2[remote.Object, error] {
	return func(yield func(remote.Object, error) bool) {
		if err := remote.CheckPrefix("list", prefix); err != nil {
			yield(remote.Object{}, err)
			return
		}
		b.mu.Lock()
		objects := maps.Clone(b.mu.objects)
		b.mu.Unlock()
		for _, key := range slices.Sorted(maps.Keys(objects)) {
			if err := remote.Ended(ctx, "list", prefix); err != nil {
				yield(remote.Object{}, err)
				return
			}
			info := objects[key].info
			if strings.HasPrefix(key, prefix) && key > after && !yield(remote.Object{Key: key, Size: info.Size, Modified: info.Modified}, nil) {
				return
			}
		}
	}
}

// Delete implements remote.Bucket.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	if err := remote.CheckKey("delete", key); err != nil {
		return err
	}
	if err := remote.Ended(ctx, "delete", key); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.mu.objects, key)
	return nil
}

// Damage changes a bit of an object where it lies, as a disk does.
func (b *Bucket) Damage(key string, off int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	o, there := b.mu.objects[key]
	if !there || off >= o.info.Size {
		return fmt.Errorf("there is no byte %d of %s", off, key)
	}
	o.bytes = slices.Clone(o.bytes)
	o.bytes[off] ^= 1
	b.mu.objects[key] = o
	return nil
}
