package fs

import (
	"encoding/binary"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"stepfs/fs/stage"
)

// FuzzRequests hands requests to the file system as the kernel would, without a
// mount: a list of requests, each a byte of length (in words of four), an
// opcode, and what follows the header. Whatever they are, nothing panics, each
// is answered in the room that it asked for, and the tree works afterwards.
func FuzzRequests(f *testing.F) {
	op := func(code byte, node byte, body ...byte) []byte {
		for len(body)%4 != 0 {
			body = append(body, 0)
		}
		return append([]byte{byte(len(body) / 4), code, node}, body...)
	}
	words := func(v ...uint32) (b []byte) {
		for _, x := range v {
			b = binary.NativeEndian.AppendUint32(b, x)
		}
		return b
	}
	join := func(all ...[]byte) (out []byte) {
		for _, b := range all {
			out = append(out, b...)
		}
		return out
	}
	name := func(s string) []byte { return append([]byte(s), 0) }
	create := op(35, 0, append(words(0x8042, 0o100644, 0, 0), name("f")...)...)
	f.Add(join(create, op(1, 0, name("f")...), op(3, 1, words(0, 0, 0, 0)...)))
	f.Add(join(create, op(16, 1, append(words(0, 0, 0, 0, 8, 0, 0, 0, 0, 0), []byte("contents")...)...),
		op(20, 1, words(0, 0, 0, 0)...), op(15, 1, words(0, 0, 0, 0, 4096, 0, 0, 0, 0, 0)...)))
	f.Add(join(op(9, 0, append(words(0o755, 0), name("d")...)...), op(28, 0, words(0, 0, 0, 0, 4096, 0, 0, 0, 0, 0)...)))
	f.Add(join(op(1, 0, name("snapshots")...), op(44, 2, words(0, 0, 0, 0, 4096, 0, 0, 0, 0, 0)...)))
	f.Add(join(op(21, 0, append(words(1, 0), append(name("user.a"), 'x')...)...), op(22, 0, append(words(64, 0), name("user.a")...)...), op(23, 0, words(64, 0)...)))
	f.Add(join(create, op(45, 0, append(words(1, 0, 0, 0), append(name("f"), name("g")...)...)...), op(43, 1, words(0, 0, 0, 0, 9, 0, 0, 0, 3, 0)...)))
	f.Add(join(create, op(4, 1, words(8, 0, 0, 0, 0, 0, 100, 0)...), op(46, 1, words(0, 0, 0, 0, 0, 0, 3, 0)...), op(47, 1, words(0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 10, 0, 0, 0)...)))
	f.Add(op(255, 0))
	f.Fuzz(func(t *testing.T, data []byte) {
		tree := openTreeOn(t, vfs.NewMem())
		c := newCuts(tree)
		fs, err := New(Options{Tree: tree, Registry: c, Manager: c})
		if err != nil {
			t.Fatal(err)
		}
		o := ServerOptions{Panic: func(v any, stack []byte) { t.Errorf("panic: %v\n%s", v, stack) }}.withDefaults()
		proto := fuse.NewProtocolServer(fs, o.protocolOptions())
		handle(t, proto, request(opInit, 0, words(7, 41, 1<<17, 0xffffffff, 0xffffffff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)))
		nodes := []uint64{1}
		for len(data) >= 3 && len(nodes) < 64 {
			n := min(int(data[0])*4, len(data)-3)
			code, node, body := data[1], data[2], data[3:3+n]
			data = data[3+n:]
			if code == opInit || code == 38 { // the connection's own: INIT, DESTROY
				continue
			}
			reply := handle(t, proto, request(uint32(code), nodes[int(node)%len(nodes)], body))
			if len(reply) >= outHeaderSize+8 {
				nodes = append(nodes, binary.NativeEndian.Uint64(reply[outHeaderSize:])) // or something else
			}
		}
		a, fh, err := tree.Create(stage.RootIno, "afterwards", 0o644, 2, stage.Cred{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tree.Write(a.Ino, fh, []byte("works"), 0); err != nil {
			t.Fatal(err)
		}
		if _, err := tree.Cut([]uint64{a.Ino}, false, true); err != nil {
			t.Fatal(err)
		}
	})
}

// request is one with its header.
func request(op uint32, node uint64, body []byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(inHeaderSize+len(body)))
	b = binary.NativeEndian.AppendUint32(b, op)
	b = binary.NativeEndian.AppendUint64(b, 7) // unique
	b = binary.NativeEndian.AppendUint64(b, node)
	b = append(b, make([]byte, inHeaderSize-len(b))...) // of root
	return append(b, body...)
}

// handle answers a request as Server.answer does.
func handle(t *testing.T, proto *fuse.ProtocolServer, req []byte) []byte {
	need := max(smallReply, replySize(req))
	if need > MaxWrite+outHeaderSize { // the kernel asks for no more
		return nil
	}
	out := make([]byte, need)
	n, status := proto.HandleRequest([][]byte{req}, [][]byte{out})
	if n == 0 && !status.Ok() {
		n = errorReply(out, req, status)
	}
	if n > len(out) || n > 0 && n < outHeaderSize {
		t.Fatalf("a reply of %d bytes to %x", n, req)
	}
	return out[:n]
}
