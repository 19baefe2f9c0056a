// Command measure prints what the chunks of real checkpoint series take in each
// encoding: see bench/series/generate.py, which makes the series.
//
//	go run ./bench/series/measure DIR
//
// DIR/<series>/<step>/<file>. For each kind of file: content-defined chunks with
// zstd, as any deduplicating store keeps them; the same chunks as float planes;
// planes of the XOR with the previous version of the file at the same offsets;
// and the codec's own delta. Each ratio is given for all steps together and,
// behind it, for those that have a previous one; duplicate chunks count as
// nothing. The speeds are of one core, by its own clock: others may be at work.
package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/restic/chunker"
	"golang.org/x/sys/unix"

	"stepfs/chunkstore/codec"
)

// The chunker of a new store.
const (
	smallest, averageBits, largest = 768 << 10, 19, 8 << 20
	polynomial                     = chunker.Pol(0x3DA3358B4DC173)
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: measure DIR")
		os.Exit(2)
	}
	runtime.LockOSThread() // the clock is the thread's
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "measure:", err)
		os.Exit(1)
	}
}

func run(dir string) error {
	paths, err := filepath.Glob(filepath.Join(dir, "*", "[0-9]*", "*"))
	if err != nil {
		return err
	}
	fmt.Printf("%-28s %6s | %-17s | %-23s | %-11s | %-23s | %s\n", "", "", "CDC+zstd", "planes", "XOR+planes", "delta", "memcpy")
	fmt.Printf("%-28s %6s | %11s %5s | %11s %5s %5s | %11s | %11s %5s %5s | %6s\n", "series/file", "MiB",
		"ratio", "enc", "ratio", "enc", "dec", "ratio", "ratio", "enc", "dec", "MB/s")
	seen := map[string]bool{}
	for _, path := range paths {
		series, file := filepath.Base(filepath.Dir(filepath.Dir(path))), filepath.Base(path)
		name := series + "/" + file
		if seen[name] {
			continue
		}
		seen[name] = true
		versions, err := filepath.Glob(filepath.Join(dir, series, "[0-9]*", file))
		if err != nil {
			return err
		}
		m, err := newMeasure()
		if err != nil {
			return err
		}
		for _, path := range versions {
			if err := m.version(path); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
		}
		m.print(name)
		m.coder.Close()
	}
	return nil
}

// now is what this thread has computed.
func now() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		panic(err) // Linux has it
	}
	return time.Duration(t.Nano())
}

// tally is what one encoding did.
type tally struct {
	stored         [2]int64 // of all versions; of the first
	work           int64    // bytes that were no duplicates
	encode, decode time.Duration
}

// measure is about one kind of file.
type measure struct {
	coder                             *codec.Coder
	zstd                              *zstd.Encoder
	raw                               [2]int64
	plain, planes, xor, delta, copied tally

	versions               int
	known                  map[[32]byte]bool
	before                 []byte // the previous version
	out, check, difference []byte
}

func newMeasure() (*measure, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(2<<20))
	return &measure{coder: codec.NewCoder(), zstd: enc, known: map[[32]byte]bool{},
		check: make([]byte, largest), difference: make([]byte, largest)}, err
}

func (m *measure) version(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	cut := chunker.NewWithBoundaries(bytes.NewReader(b), polynomial, smallest, largest)
	cut.SetAverageBits(averageBits)
	buf := make([]byte, largest)
	for at := 0; ; {
		c, err := cut.Next(buf[:0])
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if err := m.chunk(b, at, at+len(c.Data)); err != nil {
			return fmt.Errorf("at %d: %w", at, err)
		}
		at += len(c.Data)
	}
	m.before = b
	m.versions++
	return nil
}

// count adds n to what is kept for all versions, and for the first.
func (m *measure) count(sums *[2]int64, n int) {
	sums[0] += int64(n)
	if m.versions == 0 {
		sums[1] += int64(n)
	}
}

func (m *measure) chunk(file []byte, from, to int) error {
	chunk := file[from:to]
	n := len(chunk)
	m.count(&m.raw, n)
	id := sha256.Sum256(chunk)
	if m.known[id] {
		return nil
	}
	m.known[id] = true

	start := now()
	copy(m.check, chunk)
	m.copied.encode += now() - start
	m.copied.work += int64(n)

	start = now()
	m.out = m.zstd.EncodeAll(chunk, m.out[:0])
	m.plain.encode += now() - start
	m.plain.work += int64(n)
	m.count(&m.plain.stored, min(len(m.out), n))

	hint := codec.Hint{Offset: int64(from)}
	var base []byte
	xor := chunk
	if len(m.before) >= to {
		base, xor = m.before[from:to], m.difference[:n]
		for i, b := range base {
			xor[i] = chunk[i] ^ b
		}
	}
	if err := m.one(&m.planes, chunk, nil, hint); err != nil {
		return err
	}
	if err := m.one(&m.xor, xor, nil, hint); err != nil {
		return err
	}
	return m.one(&m.delta, chunk, base, hint)
}

// one encodes a chunk and proves that it comes back.
func (m *measure) one(t *tally, chunk, base []byte, hint codec.Hint) error {
	n := len(chunk)
	start := now()
	m.out, _, _ = m.coder.Encode(m.out[:0], chunk, base, hint)
	t.encode += now() - start
	t.work += int64(n)
	m.count(&t.stored, len(m.out))
	start = now()
	err := m.coder.Decode(m.check[:n], m.out, base)
	t.decode += now() - start
	if err == nil && !bytes.Equal(m.check[:n], chunk) {
		err = fmt.Errorf("a chunk of %d bytes came back as another", n)
	}
	return err
}

func (m *measure) print(name string) {
	ratio := func(t tally) string {
		return fmt.Sprintf("%5.2f %5.2f", float64(m.raw[0])/float64(t.stored[0]),
			float64(m.raw[0]-m.raw[1])/float64(max(1, t.stored[0]-t.stored[1])))
	}
	speed := func(t tally, d time.Duration) float64 { return float64(t.work) / 1e6 / d.Seconds() }
	fmt.Printf("%-28s %6.1f | %s %5.0f | %s %5.0f %5.0f | %s | %s %5.0f %5.0f | %6.0f\n", name, float64(m.raw[0])/(1<<20),
		ratio(m.plain), speed(m.plain, m.plain.encode),
		ratio(m.planes), speed(m.planes, m.planes.encode), speed(m.planes, m.planes.decode),
		ratio(m.xor),
		ratio(m.delta), speed(m.delta, m.delta.encode), speed(m.delta, m.delta.decode),
		speed(m.copied, m.copied.encode))
}
