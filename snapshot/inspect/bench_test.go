package inspect

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// BenchmarkCheck: file size per second, by what is checked; and per second of
// processor time, since machines are shared.
func BenchmarkCheck(b *testing.B) {
	tree := made(b)
	tensors := map[string][]byte{"model.safetensors": manyTensors(20_000, 16<<10)}
	text := `{"log_history":[` + strings.Repeat(`{"loss": 1.25, "step": 12000, "text": "some words of a log"},`, 100_000) + `{}]}`
	large := bytes.Repeat([]byte("0123456789abcdef"), 16<<20)
	for _, row := range []struct {
		name string
		tree memTree
		o    Options
	}{
		{"zip-70000-records", tree.only(b, "many.pt"), Options{}},
		{"zip-70000-records-deep", tree.only(b, "many.pt"), Options{Deep: true}},
		{"zip-256MB", memTree{"a.pt": torchZip(large)}, Options{}},
		{"zip-256MB-deep", memTree{"a.pt": torchZip(large)}, Options{Deep: true}},
		{"zip-256MB-nan", memTree{"a.pt": torchZip(large)}, Options{NaN: true}},
		{"safetensors-20000-of-16KB", tensors, Options{}},
		{"safetensors-20000-of-16KB-nan", tensors, Options{NaN: true}},
		{"json", memTree{"trainer_state.json": []byte(text)}, Options{}},
	} {
		b.Run(row.name, func(b *testing.B) {
			var size int64
			for _, content := range row.tree {
				size = int64(len(content))
			}
			b.SetBytes(size)
			b.ReportAllocs()
			before := cpuTime()
			for b.Loop() {
				r, err := Check(b.Context(), row.tree, row.o)
				if err != nil || !r.Sound() || r.Checked != 1 {
					b.Fatal(r, err)
				}
			}
			b.ReportMetric(float64(size)*float64(b.N)/1e6/(cpuTime()-before).Seconds(), "MB/cpu-s")
		})
	}
}

// cpuTime is what this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// manyTensors is a safetensors file of n tensors of the same size.
func manyTensors(n, size int) []byte {
	var header strings.Builder
	for i := range n {
		fmt.Fprintf(&header, `%s"model.layers.%d.weight":{"dtype":"F32","shape":[%d],"data_offsets":[%d,%d]}`,
			map[bool]string{true: "{", false: ","}[i == 0], i, size/4, i*size, (i+1)*size)
	}
	header.WriteString("}")
	out := binary.LittleEndian.AppendUint64(nil, uint64(header.Len()))
	out = append(out, header.String()...)
	return append(out, make([]byte, n*size)...)
}
