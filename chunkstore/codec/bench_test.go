package codec

import (
	"math"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// spent is what this thread has computed: others may be at work.
func spent() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		panic(err) // Linux has it
	}
	return time.Duration(t.Nano())
}

// loop runs what works on n bytes, and reports the MB/s of one core.
func loop(b *testing.B, n int, work func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	start := spent()
	for b.Loop() {
		work()
	}
	b.ReportMetric(float64(n)*float64(b.N)/1e6/(spent()-start).Seconds(), "MB/cpu-s")
}

// weights gives n floats as a layer has them, and what they become in a few
// steps of Adam.
func weights(n int, step float64) (before, after []float32) {
	rng := rand.New(rand.NewPCG(1, 2))
	before, after = make([]float32, n), make([]float32, n)
	for i := range before {
		before[i] = float32(rng.NormFloat64() * 0.03)
		after[i] = before[i] + float32(rng.NormFloat64()*step)
	}
	return before, after
}

func bytes32(w []float32) []byte {
	var b []byte
	for _, v := range w {
		b = le.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

func bytes16(w []float32) []byte {
	var b []byte
	for _, v := range w {
		x := math.Float32bits(v)
		b = le.AppendUint16(b, uint16((x+0x7fff+x>>16&1)>>16))
	}
	return b
}

func BenchmarkCodec(b *testing.B) {
	before, after := weights(1<<19, 2e-4)
	for _, kind := range []struct {
		name        string
		plain, base []byte
	}{
		{"planes32", bytes32(after), nil},
		{"planes16", bytes16(after), nil},
		{"delta32", bytes32(after), bytes32(before)},
		{"delta16", bytes16(after), bytes16(before)},
		{"rounded", bytes16(after), bytes32(after)},
	} {
		for _, mode := range []string{"", "-plain"} {
			c := NewCoder()
			c.plain = mode != ""
			kind.name += mode
			defer c.Close()
			out, _, _ := c.Encode(nil, kind.plain, kind.base, Hint{})
			b.Run(kind.name+"/encode", func(b *testing.B) {
				loop(b, len(kind.plain), func() { out, _, _ = c.Encode(out[:0], kind.plain, kind.base, Hint{}) })
				b.ReportMetric(float64(len(kind.plain))/float64(len(out)), "ratio")
			})
			dst := make([]byte, len(kind.plain))
			b.Run(kind.name+"/decode", func(b *testing.B) {
				loop(b, len(kind.plain), func() {
					if err := c.Decode(dst, out, kind.base); err != nil {
						b.Fatal(err)
					}
				})
			})
			b.Run(kind.name+"/memcpy", func(b *testing.B) {
				loop(b, len(kind.plain), func() { copy(dst, kind.plain) })
			})
		}
	}
}
