package snapshot_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"stepfs/snapshot"
)

// model is fp32 weights that train a little, and how they are saved.
type model struct {
	rng     *rand.Rand
	weights []float32
}

func newModel(n int) *model {
	m := &model{rng: rand.New(rand.NewPCG(5, 6)), weights: make([]float32, n)}
	for i := range m.weights {
		m.weights[i] = float32(m.rng.NormFloat64() * 0.03)
	}
	return m
}

func (m *model) train() {
	for i := range m.weights {
		m.weights[i] += float32(m.rng.NormFloat64() * 3e-5)
	}
}

// safetensors gives the weights as a file of ten tensors, whose header has a note.
func (m *model) safetensors(dtype, note string) string {
	var header, data strings.Builder
	fmt.Fprintf(&header, `{"__metadata__":{"note":%q}`, note)
	each := len(m.weights) / 10
	for k := range 10 {
		from := data.Len()
		for _, w := range m.weights[k*each : (k+1)*each] {
			v, b := math.Float32bits(w), [4]byte{}
			if dtype == "BF16" {
				binary.LittleEndian.PutUint16(b[:], uint16((v+0x7fff+v>>16&1)>>16))
				data.Write(b[:2])
			} else {
				binary.LittleEndian.PutUint32(b[:], v)
				data.Write(b[:])
			}
		}
		fmt.Fprintf(&header, `,"t%d":{"dtype":%q,"shape":[%d],"data_offsets":[%d,%d]}`, k, dtype, each, from, data.Len())
	}
	header.WriteString("}")
	length := binary.LittleEndian.AppendUint64(nil, uint64(header.Len()))
	return string(length) + header.String() + data.String()
}

// A step whose tensors have moved takes what one would in which they have not, hot
// or not; and bf16 weights next to nothing beside the fp32 that they are rounded
// from, though they were written first.
func TestTensorsAreFound(t *testing.T) {
	for what, hot := range map[string]int64{"hot": 0, "not hot": 1} {
		t.Run(what, func(t *testing.T) { testTensorsAreFound(t, hot) })
	}
}

func testTensorsAreFound(t *testing.T, hot int64) {
	w := newWorld(t, func(c *snapshot.Config) { c.HotLimit = hot })
	m := newModel(540_000)
	taken := map[int]int64{}
	want := map[string]string{}
	var last uint64
	for i := range 5 {
		note := strings.Repeat("n", 1001*max(0, i-1))
		for _, dtype := range []string{"BF16", "F32"} {
			if dtype == "F32" || i > 1 {
				path := fmt.Sprintf("checkpoint-%d/model-%s.safetensors", i, dtype)
				want[path] = m.safetensors(dtype, note)
				w.put(path, want[path])
			}
		}
		w.step(fmt.Sprint(i))
		s := w.stored(fmt.Sprint(i))
		taken[i], last = s.Stored, s.Seq
		m.train()
	}
	for i := 2; i < 5; i++ {
		most := taken[1] * 105 / 100
		if i == 4 { // its base is further away
			most = taken[1] * 10 / 9
		}
		if taken[i] > most || taken[i] > taken[0]*4/5 {
			t.Errorf("bytes taken by step: %v", taken)
			break
		}
	}
	i, err := w.m.Verify(w.ctx(), last, nil) // from packs
	if w.ok(err); !i.Verified.OK() {
		t.Errorf("%+v", i.Verified)
	}
	for path, data := range want {
		w.want(last, path, data)
	}
	w.noFaults()
}

// What was put off is stored, also when what it may be rounded from never comes.
func TestNarrowAlone(t *testing.T) {
	w := newWorld(t, nil)
	m := newModel(540_000)
	for i := range 2 {
		w.put(fmt.Sprintf("checkpoint-%d/a.safetensors", i), m.safetensors("BF16", ""))
		w.put(fmt.Sprintf("checkpoint-%d/b.safetensors", i), m.safetensors("BF16", "b"))
		w.step(fmt.Sprint(i))
		if i == 0 {
			w.drain()
		}
		w.stored(fmt.Sprint(i))
		m.train()
	}
	w.drain()
	if n := pendings(w); n > 0 {
		t.Errorf("%d contents wait", n)
	}
	w.noFaults()
}
