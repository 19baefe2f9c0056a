package bucket

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"stepfs/chunkstore/pack"
)

// The first parts of keys.
const (
	ConfigKey     = "config"
	WritersPrefix = "writers/"
	PacksPrefix   = "packs/"
	IndexPrefix   = "index/"
	RefsPrefix    = "refs/"
	GroupsPrefix  = "groups/" // reserved
	LeasesPrefix  = "leases/"
	RetiredPrefix = "retired/"
)

// Writer names a store that uploads. It is drawn once for each attachment of a
// store to a bucket, so a copy of a store that is attached anew is another one.
type Writer [8]byte

// NewWriter draws a name.
func NewWriter() (w Writer) {
	_, _ = rand.Read(w[:]) // never fails
	return w
}

func (w Writer) String() string { return hex.EncodeToString(w[:]) }

// ParseWriter is the inverse of String.
func ParseWriter(s string) (w Writer, ok bool) {
	if len(s) != 2*len(w) || strings.ToLower(s) != s {
		return Writer{}, false
	}
	_, err := hex.Decode(w[:], []byte(s))
	return w, err == nil
}

// Pack is a pack in a bucket. Name is that of its content; Writer and Seq make
// its key one that was never used before.
type Pack struct {
	Name   pack.Name
	Writer Writer
	Seq    uint64
	Size   int64 // bytes
}

// Key is where the pack is.
func (p Pack) Key() string {
	name := hex.EncodeToString(p.Name[:])
	return fmt.Sprintf("%s%s/%s.%s.%016x", PacksPrefix, name[:2], name, p.Writer, p.Seq)
}

// ParsePackKey is the inverse of Key, but for the size; ok is false for any other
// key.
func ParsePackKey(key string) (p Pack, ok bool) {
	rest, found := strings.CutPrefix(key, PacksPrefix)
	dir, file, slash := strings.Cut(rest, "/")
	parts := strings.Split(file, ".")
	if !found || !slash || len(parts) != 3 || !strings.HasPrefix(file, dir) || len(dir) != 2 {
		return Pack{}, false
	}
	var named, written, numbered bool
	p.Name, named = pack.ParseFileName(parts[0] + pack.Suffix)
	p.Writer, written = ParseWriter(parts[1])
	p.Seq, numbered = parseSeq(parts[2])
	return p, named && written && numbered
}

// WriterKey is where a writer introduces himself.
func WriterKey(w Writer) string { return WritersPrefix + w.String() }

// IndexKey is where an index object is.
func IndexKey(w Writer, seq uint64) string { return numbered(IndexPrefix, w, seq) }

// RefKey is where a ref is.
func RefKey(w Writer, seq uint64) string { return numbered(RefsPrefix, w, seq) }

// LeaseKey is where a lease is: numbered, not named, so that whoever gets all of
// them up to the first that is not there has seen all.
func LeaseKey(slot uint64) string { return fmt.Sprintf("%s%016x", LeasesPrefix, slot) }

// RetiredKey is where a list of retired packs is.
func RetiredKey(epoch uint64) string { return fmt.Sprintf("%s%016x", RetiredPrefix, epoch) }

// ParseRetiredKey is the inverse of RetiredKey.
func ParseRetiredKey(key string) (epoch uint64, ok bool) {
	number, found := strings.CutPrefix(key, RetiredPrefix)
	epoch, counted := parseSeq(number)
	return epoch, found && counted
}

func numbered(prefix string, w Writer, seq uint64) string {
	return fmt.Sprintf("%s%s/%016x", prefix, w, seq)
}

// ParseNumbered is the inverse of IndexKey and RefKey, given their prefix.
func ParseNumbered(prefix, key string) (w Writer, seq uint64, ok bool) {
	rest, found := strings.CutPrefix(key, prefix)
	writer, number, slash := strings.Cut(rest, "/")
	if !found || !slash {
		return Writer{}, 0, false
	}
	w, written := ParseWriter(writer)
	seq, counted := parseSeq(number)
	return w, seq, written && counted
}

func parseSeq(s string) (uint64, bool) {
	n, err := strconv.ParseUint(s, 16, 64)
	return n, err == nil && fmt.Sprintf("%016x", n) == s
}
