package chunkstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/pack"
	"stepfs/internal/schema"
)

// A stub is what stays here of a pack whose file is only in the bucket: where it
// is there, and what a pack says of itself. So whoever asks for a footer (Collect,
// check, a rebuild of the index) needs no bucket.
//
//	0 8 magic "stepfsAW"   8 8 writer   16 8 seq   24 8 size of the pack
//	32 4 CRC32-C of bytes 0..32   36 the pack's header, footer and trailer

// StubSuffix ends the name of a stub, which is else that of the pack.
const StubSuffix = ".away"

const (
	stubHead = 36
	maxStub  = stubHead + pack.HeaderSize + pack.MaxFooter + pack.TrailerSize
)

var stubMagic = []byte("stepfsAW")

// stubName is the file of a pack's stub.
func stubName(n pack.Name) string {
	return strings.TrimSuffix(n.FileName(), pack.Suffix) + StubSuffix
}

// parseStubName is the inverse of stubName.
func parseStubName(s string) (n pack.Name, ok bool) {
	hex, ok := strings.CutSuffix(s, StubSuffix)
	if !ok {
		return n, false
	}
	return pack.ParseFileName(hex + pack.Suffix)
}

// stub is one that was read.
type stub struct {
	at   bucket.Pack
	head []byte // of the pack
	tail []byte // its footer and trailer
}

// makeStub makes the stub of a pack from its file.
func makeStub(r io.ReaderAt, at bucket.Pack) ([]byte, error) {
	f, name, err := pack.ReadFooter(r, at.Size)
	if err == nil && name != at.Name {
		err = fmt.Errorf("%w: its footer is another pack's", pack.ErrFormat)
	}
	if err != nil {
		return nil, err
	}
	b := append([]byte(nil), stubMagic...)
	b = append(b, at.Writer[:]...)
	b = binary.LittleEndian.AppendUint64(b, at.Seq)
	b = binary.LittleEndian.AppendUint64(b, uint64(at.Size))
	b = binary.LittleEndian.AppendUint32(b, pack.Checksum(b))
	rest := make([]byte, pack.HeaderSize+at.Size-f.Body)
	if _, err := r.ReadAt(rest[:pack.HeaderSize], 0); err != nil {
		return nil, err
	}
	if _, err := r.ReadAt(rest[pack.HeaderSize:], f.Body); err != nil {
		return nil, err
	}
	return append(b, rest...), nil
}

// parseStub reads the stub of a pack of that name.
func parseStub(b []byte, name pack.Name) (*stub, error) {
	if len(b) < stubHead+pack.HeaderSize+pack.TrailerSize || string(b[:8]) != string(stubMagic) ||
		binary.LittleEndian.Uint32(b[32:]) != pack.Checksum(b[:32]) {
		return nil, fmt.Errorf("%w: no stub of a pack", pack.ErrFormat)
	}
	s := &stub{at: bucket.Pack{Name: name, Writer: bucket.Writer(b[8:16]), Seq: binary.LittleEndian.Uint64(b[16:])}}
	s.at.Size = int64(binary.LittleEndian.Uint64(b[24:]))
	s.head, s.tail = b[stubHead:stubHead+pack.HeaderSize], b[stubHead+pack.HeaderSize:]
	if s.at.Size < int64(len(s.head)+len(s.tail)) {
		return nil, fmt.Errorf("%w: a stub of %d bytes of a pack of %d", pack.ErrFormat, len(b), s.at.Size)
	}
	return s, nil
}

// record is what the index has to know of the pack.
func (s *stub) record() schema.PackUpload {
	return schema.PackUpload{State: schema.UploadOnly, Writer: s.at.Writer, Seq: s.at.Seq, Size: uint64(s.at.Size)}
}

// ReadAt reads the pack where the stub has it.
func (s *stub) ReadAt(p []byte, off int64) (int, error) {
	end := off + int64(len(p))
	body := s.at.Size - int64(len(s.tail))
	switch {
	case off >= 0 && end <= int64(len(s.head)):
		return copy(p, s.head[off:]), nil
	case off >= body && end <= s.at.Size:
		return copy(p, s.tail[off-body:]), nil
	}
	return 0, fmt.Errorf("%w: the stub has not the bytes %d to %d", pack.ErrFormat, off, end)
}

// readStub reads the stub of a pack in dir. pack.ErrFormat: it is of no use.
func readStub(fs vfs.FS, dir string, name pack.Name) (*stub, error) {
	f, err := fs.Open(fs.PathJoin(dir, stubName(name)))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() > maxStub {
		return nil, fmt.Errorf("%w: a stub of %d bytes", pack.ErrFormat, st.Size())
	}
	b := make([]byte, st.Size())
	if _, err := f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read stub %s: %w", stubName(name), err)
	}
	return parseStub(b, name)
}

// writeStub makes the stub of a pack durable, but for its name (syncDir).
func (s *Store) writeStub(at bucket.Pack) error {
	f, err := s.files.acquire(s.fs.PathJoin(s.dir, at.Name.FileName()))
	if err != nil {
		return err
	}
	b, err := makeStub(f, at)
	s.files.release(f)
	if err != nil {
		return fmt.Errorf("make the stub of pack %s: %w", at.Name.FileName(), err)
	}
	tmp := s.fs.PathJoin(s.dir, fmt.Sprintf("%016x%s", s.tmpSeq.Add(1), tmpSuffix))
	out, err := s.fs.Create(tmp, "stepfs-pack")
	if err != nil {
		return err
	}
	if _, err = out.Write(b); err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err == nil {
		err = s.fs.Rename(tmp, s.fs.PathJoin(s.dir, stubName(at.Name)))
	}
	if err != nil {
		_ = s.fs.Remove(tmp) // the next Open does it
	}
	return err
}

// removeStub removes the stub of a pack, if there is one.
func (s *Store) removeStub(name pack.Name) error {
	err := s.fs.Remove(s.fs.PathJoin(s.dir, stubName(name)))
	if oserror.IsNotExist(err) {
		return nil
	}
	return err
}
