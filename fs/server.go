package fs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Opcodes that the loop itself must know; the rest is go-fuse's.
const (
	opRead        = 15
	opGetXattr    = 22
	opListXattr   = 23
	opInit        = 26
	opReadDir     = 28
	opIoctl       = 39
	opReadDirPlus = 44
)

const (
	inHeaderSize  = 40 // struct fuse_in_header
	outHeaderSize = 16 // struct fuse_out_header
	writeInSize   = 80 // header and struct fuse_write_in: what comes before the data of a WRITE

	// smallRequest: requests up to here are moved out of the big buffer before
	// they are answered, so that a hundred waiting fsyncs do not hold a hundred
	// megabytes.
	smallRequest = 8 << 10
	// smallReply holds every reply without a payload of the caller's choosing:
	// the largest is a symlink's target of 4 KiB.
	smallReply = 8 << 10
)

// ServerOptions tunes a Server; the zero value is the default.
type ServerOptions struct {
	// Readers is how many goroutines wait for requests at most; default 4.
	// More requests than that are answered at the same time when need be.
	Readers int
	// Buffers bounds how many WRITEs, and how many READs, are in memory at the
	// same time, a megabyte each; default 64.
	Buffers int
	// MaxBackground is how many requests the kernel keeps going on its own
	// account (read-ahead, write-back); default 32.
	MaxBackground int
	// Panic hears of an operation that panicked; it is answered with EIO.
	// Default: nobody does.
	Panic func(value any, stack []byte)
	// Protocol hears what go-fuse has to say about a malformed request.
	Protocol func(line string)
}

func (o ServerOptions) withDefaults() ServerOptions {
	if o.Readers <= 0 {
		o.Readers = 4
	}
	if o.Buffers <= 0 {
		o.Buffers = 64
	}
	if o.MaxBackground <= 0 {
		o.MaxBackground = 32
	}
	if o.Panic == nil {
		o.Panic = func(any, []byte) {}
	}
	if o.Protocol == nil {
		o.Protocol = func(string) {}
	}
	return o
}

// protocolOptions is what INIT is answered with. go-fuse itself asks for
// ASYNC_READ, BIG_WRITES, FILE_OPS, READDIRPLUS, NO_OPEN_SUPPORT (which means
// nothing unless OPEN is answered ENOSYS), PARALLEL_DIROPS, MAX_PAGES (from
// MaxWrite: 256), PASSTHROUGH and INIT_EXT. A successor must answer the same
// (see NewServer), so a change here is a change that a running mount cannot
// take over.
func (o ServerOptions) protocolOptions() *fuse.MountOptions {
	opts := &fuse.MountOptions{
		MaxWrite:      MaxWrite,
		MaxBackground: o.MaxBackground,
		// EXPLICIT_INVAL_DATA instead of AUTO_INVAL_DATA: nobody writes below
		// the mount, so no mtime ever says that the page cache is stale. What
		// the daemon changes by itself (rollback) it notifies.
		ExplicitDataCacheControl: true,
		// Locks stay in the kernel: one machine, one mount.
		EnableLocks: false,
		ExtraCapabilities: fuse.CAP_ATOMIC_O_TRUNC | // OPEN carries O_TRUNC: one new generation, not an open and a truncate
			fuse.CAP_HANDLE_KILLPRIV_V2 | // else one look-up of security.capability per write
			fuse.CAP_READDIRPLUS_AUTO | // a plain ls of a million entries needs no attributes
			fuse.CAP_EXPORT_SUPPORT, // node ids are for ever, so file handles can be
		// No writeback cache (never asked for): what write(2) acknowledged must
		// have reached us. No passthrough yet: nothing hands files to the kernel.
		DisabledCapabilities: fuse.CAP_WRITEBACK_CACHE | fuse.CAP_PASSTHROUGH,
		PanicHandler: func(v any) fuse.Status {
			o.Panic(v, debug.Stack())
			return fuse.EIO
		},
	}
	opts.Logger = loggerTo(opts.Logger, o.Protocol)
	return opts
}

// ErrDetached: the server stopped answering because Detach was called; the
// mount stands.
var ErrDetached = errors.New("the mount was handed over")

// Server answers the requests of one connection by a fuse.RawFileSystem.
//
// go-fuse's own server cannot go on with a descriptor that another process
// has mounted: it waits for an INIT, which the kernel sends only once. So the
// loop is ours and only the protocol is go-fuse's (fuse.ProtocolServer), which
// is given the saved INIT.
//
// Any number of requests are answered at the same time, each by the goroutine
// that read it; one more is started whenever nobody is left waiting for the
// next. So an fsync that waits for the disk holds up nobody, and the INTERRUPT
// that is meant for it is always read.
type Server struct {
	conn  *Conn
	raw   fuse.RawFileSystem
	proto *fuse.ProtocolServer
	opts  ServerOptions
	minor uint32 // of the kernel's protocol version 7.x

	in, out  *bufferPool
	waiting  atomic.Int32 // goroutines in read(2), or on the way there
	readers  sync.WaitGroup
	stopping atomic.Bool
	served   atomic.Bool

	failOnce sync.Once
	failure  error // the first reader's reason to end; read after readers.Wait
}

// NewServer makes a server for c: it answers the INIT of a new mount, or goes
// on with the one that c brings from a predecessor.
func NewServer(c *Conn, raw fuse.RawFileSystem, o ServerOptions) (*Server, error) {
	o = o.withDefaults()
	s := &Server{
		conn: c, raw: raw, opts: o,
		proto: fuse.NewProtocolServer(raw, o.protocolOptions()),
		// Data begins on a page: a WRITE's behind its header, a READ's reply
		// behind its own.
		in:  newBufferPool(o.Buffers, MaxWrite+writeInSize, writeInSize),
		out: newBufferPool(o.Buffers, MaxWrite+outHeaderSize, outHeaderSize),
	}
	var err error
	if c.initReply == nil {
		err = s.init()
	} else {
		err = s.resume()
	}
	if err != nil {
		return nil, fmt.Errorf("FUSE connection of %s: %w", c.Mountpoint, err)
	}
	// struct fuse_init_in: major, minor, …
	s.minor = binary.NativeEndian.Uint32(c.initRequest[inHeaderSize+4:])
	return s, nil
}

// init reads the kernel's INIT, answers it and keeps both for a successor.
func (s *Server) init() error {
	buf := s.in.get()
	defer s.in.put(buf)
	n, err := s.read(buf)
	if err != nil {
		return fmt.Errorf("read INIT: %w", err)
	}
	if n < inHeaderSize+8 || binary.NativeEndian.Uint32(buf[4:]) != opInit {
		return errors.New("the first request is not INIT: this descriptor was mounted by somebody else")
	}
	s.conn.initRequest = bytes.Clone(buf[:n])
	reply, err := s.initReply()
	if err != nil {
		return err
	}
	s.conn.initReply = reply
	return s.conn.writev(reply)
}

// resume gives the saved INIT to the protocol server, which learns from it
// what was agreed. An answer other than the saved one would mean that the two
// sides understand each other differently from now on.
func (s *Server) resume() error {
	reply, err := s.initReply()
	if err != nil {
		return err
	}
	if !bytes.Equal(reply, s.conn.initReply) {
		return errors.New("this version speaks a different dialect than the daemon that mounted it: unmount and mount again")
	}
	return nil
}

func (s *Server) initReply() ([]byte, error) {
	reply := make([]byte, smallReply)
	n, status := s.proto.HandleRequest([][]byte{s.conn.initRequest}, [][]byte{reply})
	if !status.Ok() {
		return nil, fmt.Errorf("INIT: %v", status)
	}
	if code := int32(binary.NativeEndian.Uint32(reply[4:])); code != 0 {
		return nil, fmt.Errorf("INIT: %w", unix.Errno(-code))
	}
	return reply[:n], nil
}

// KernelMinor is the kernel's FUSE protocol version: 7.KernelMinor.
func (s *Server) KernelMinor() uint32 { return s.minor }

// Serve answers requests until the file system is unmounted (nil), or Detach
// was called (ErrDetached).
func (s *Server) Serve() error {
	if s.served.Swap(true) {
		return errors.New("Serve was called before")
	}
	if !s.stopping.Load() {
		s.startReader()
	}
	s.readers.Wait()
	if s.stopping.Load() && s.failure == nil {
		return ErrDetached
	}
	s.raw.OnUnmount()
	return errors.Join(s.failure, s.conn.Close())
}

func (s *Server) startReader() {
	s.waiting.Add(1)
	s.readers.Add(1)
	go s.readLoop()
}

// readLoop reads and answers requests. It counts in s.waiting except while it
// answers.
func (s *Server) readLoop() {
	defer s.readers.Done()
	small, reply := make([]byte, smallRequest), make([]byte, smallReply)
	for {
		big := s.in.get()
		n, err := s.read(big)
		if err != nil {
			s.in.put(big)
			s.waiting.Add(-1)
			s.end(err)
			return
		}
		if s.waiting.Add(-1) == 0 && !s.stopping.Load() {
			s.startReader()
		}
		if n <= len(small) {
			copy(small, big[:n])
			s.in.put(big)
			s.answer(small[:n], reply)
		} else {
			s.answer(big[:n], reply)
			s.in.put(big)
		}
		if s.waiting.Add(1) > int32(s.opts.Readers) {
			s.waiting.Add(-1)
			return
		}
	}
}

// end keeps the reason for which a reader ends, unless it is an ordinary one.
func (s *Server) end(err error) {
	if errors.Is(err, unix.ENODEV) || s.stopping.Load() && errors.Is(err, unix.EAGAIN) {
		return
	}
	s.failOnce.Do(func() { s.failure = fmt.Errorf("read a request: %w", err) })
}

// read reads one request.
func (s *Server) read(buf []byte) (int, error) {
	for {
		n, err := unix.Read(s.conn.fd, buf)
		switch {
		case err == nil && n >= inHeaderSize:
			return n, nil
		case err == nil:
			return 0, fmt.Errorf("a request of %d bytes", n)
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENOENT): // ENOENT: it was taken back
			if s.stopping.Load() {
				return 0, unix.EAGAIN
			}
		default:
			return 0, err
		}
	}
}

// answer handles one request and replies to it.
func (s *Server) answer(req, small []byte) {
	out := small
	if need := replySize(req); need > len(small) {
		out = s.out.get()
		defer s.out.put(out)
		if need > len(out) {
			// More than was agreed on; only a GETXATTR of a foreign kernel could.
			out = make([]byte, need)
		}
	}
	n, status := s.proto.HandleRequest([][]byte{req}, [][]byte{out})
	if n == 0 && !status.Ok() {
		// Too broken for go-fuse to reply to: the caller must not hang.
		n = errorReply(out, req, status)
	}
	if n == 0 {
		return // FORGET and the like
	}
	// ENOENT: the caller is gone, or an interrupt came too late. ENODEV: it was
	// unmounted. Any other error leaves nothing to be done for this request.
	_ = s.conn.writev(out[:n])
}

// replySize is how much room the reply to req needs.
func replySize(req []byte) int {
	u32 := func(off int) int {
		if len(req) < off+4 {
			return 0
		}
		return int(binary.NativeEndian.Uint32(req[off:]))
	}
	const fixed = outHeaderSize + 288 // go-fuse's largest fixed reply
	switch binary.NativeEndian.Uint32(req[4:]) {
	case opRead, opReadDir, opReadDirPlus:
		return outHeaderSize + u32(inHeaderSize+16) // fuse_read_in: fh, offset, size
	case opGetXattr, opListXattr:
		return fixed + u32(inHeaderSize) // fuse_getxattr_in: size
	case opIoctl:
		return fixed + u32(inHeaderSize+28) // fuse_ioctl_in: fh, flags, cmd, arg, in_size, out_size
	}
	return fixed
}

// errorReply writes a reply that has only a status.
func errorReply(out, req []byte, status fuse.Status) int {
	binary.NativeEndian.PutUint32(out[0:], outHeaderSize)
	binary.NativeEndian.PutUint32(out[4:], uint32(-int32(status)))
	copy(out[8:16], req[8:16])
	return outHeaderSize
}

// Detach stops the server without unmounting: what was read is answered,
// nothing more is read, and the connection is given back, to be sent to a
// successor. Requests that come meanwhile wait in the kernel.
//
// Readers sleep in read(2), which costs nothing per request but cannot be
// woken by a channel. Making the (shared) descriptor non-blocking and then
// interrupting the threads does it: the kernel looks at the flag again when it
// restarts the interrupted read. SIGURG is the signal that Go's scheduler
// sends its own threads, and that programs are free to get for no reason.
func (s *Server) Detach() (*Conn, error) {
	s.stopping.Store(true)
	if err := unix.SetNonblock(s.conn.fd, true); err != nil {
		return nil, fmt.Errorf("stop reading: %w", err)
	}
	gone := make(chan struct{})
	go func() { s.readers.Wait(); close(gone) }()
	for {
		if err := interruptThreads(); err != nil {
			return nil, fmt.Errorf("stop reading: %w", err)
		}
		select {
		case <-gone:
			if s.failure != nil {
				return nil, s.failure
			}
			return s.conn, nil
		case <-time.After(time.Millisecond):
		}
	}
}

// interruptThreads sends SIGURG to every thread of the process.
func interruptThreads() error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	pid := os.Getpid()
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		if err := unix.Tgkill(pid, tid, unix.SIGURG); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}
