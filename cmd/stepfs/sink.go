package main

import (
	"io"
	"path/filepath"
	"strings"
)

// sink is the directory that a restore or an import writes to: one of the
// system (dirSink), or a part of the live tree of a store that nobody has
// mounted (treeSink). Paths are below it, "." is itself; links are not
// followed. What is missing is fs.ErrNotExist, a full disk ENOSPC.
type sink interface {
	Stat(path string) (node, error)
	Readlink(path string) (string, error)
	// Mkdir makes a directory in which this process can write, or one that is
	// there such a one.
	Mkdir(path string) error
	// Create makes a file of a name that is free. Open opens one to be read
	// back, or a directory to be given its attributes.
	Create(path string) (sinkFile, error)
	Open(path string) (sinkFile, error)
	// Special makes what is neither a file nor a directory, with the attributes
	// of n; target is that of a symbolic link.
	Special(path string, n node, target string) error
	// Link gives the file a further name, in place of what has it now. made is
	// false when the file is called so already.
	Link(file, name string) (made bool, err error)
	Rename(from, to string) error
	Remove(path string) error
	// Sync makes all of it durable.
	Sync() error
	Close() error
}

// sinkFile is an open file or directory of a sink. Files may be read and
// written from several goroutines.
type sinkFile interface {
	io.ReaderAt
	io.WriterAt
	Truncate(size int64) error
	// SetAttributes sets owner (as root only, like cp -a), mode, xattrs and,
	// last, times. A warning is an attribute that could not be set.
	SetAttributes(n node, xattrs map[string][]byte) (warning, err error)
	// Sync makes it alone durable.
	Sync() error
	io.Closer
}

// asideSink is a sink in which one path goes by another name until all of it is
// there.
type asideSink struct {
	sink
	path, as string
}

func (s *asideSink) at(path string) string {
	if rest, ok := strings.CutPrefix(path, s.path); ok && (rest == "" || rest[0] == filepath.Separator) {
		return s.as + rest
	}
	return path
}

func (s *asideSink) Stat(path string) (node, error)       { return s.sink.Stat(s.at(path)) }
func (s *asideSink) Readlink(path string) (string, error) { return s.sink.Readlink(s.at(path)) }
func (s *asideSink) Mkdir(path string) error              { return s.sink.Mkdir(s.at(path)) }
func (s *asideSink) Create(path string) (sinkFile, error) { return s.sink.Create(s.at(path)) }
func (s *asideSink) Open(path string) (sinkFile, error)   { return s.sink.Open(s.at(path)) }
func (s *asideSink) Link(file, name string) (bool, error) { return s.sink.Link(s.at(file), s.at(name)) }
func (s *asideSink) Rename(from, to string) error         { return s.sink.Rename(s.at(from), s.at(to)) }
func (s *asideSink) Remove(path string) error             { return s.sink.Remove(s.at(path)) }
func (s *asideSink) Special(path string, n node, target string) error {
	return s.sink.Special(s.at(path), n, target)
}
