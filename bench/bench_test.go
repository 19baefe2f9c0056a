package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// The workloads run in a plain directory here: what they do has to be right
// before what they measure can be.

func TestWriteFile(t *testing.T) {
	path := t.TempDir() + "/f"
	if err := writeFile(path, 3, 4, true); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	src := newSource(3)
	seen := map[string]bool{}
	for i := range 4 {
		block := got[i<<20:][:1<<20]
		if !bytes.Equal(block, src.next()) {
			t.Fatalf("block %d is not what the seed gives", i)
		}
		for at := 0; at < len(block); at += 4096 {
			page := string(block[at:][:4096])
			if seen[page] {
				t.Fatalf("block %d repeats a page", i)
			}
			seen[page] = true
		}
	}
}

func TestNativeRates(t *testing.T) {
	dir := t.TempDir()
	if rate, err := throughput(dir, 2, 8); err != nil || rate <= 0 {
		t.Errorf("throughput: %v, %v", rate, err)
	}
	if rate, err := readRate(dir + "/model-1.bin"); err != nil || rate <= 0 {
		t.Errorf("read: %v, %v", rate, err)
	}
	if used, err := diskUsage(dir); err != nil || used < 16<<20 {
		t.Errorf("disk usage: %d, %v", used, err)
	}
	times, err := appends(dir+"/log", 10)
	if err != nil || len(times) != 10 {
		t.Errorf("appends: %v, %v", times, err)
	}
	if info, err := os.Stat(dir + "/log"); err != nil || info.Size() != 10*4096 {
		t.Errorf("log: %v, %v", info, err)
	}
	if err := populate(dir+"/many", 100); err != nil {
		t.Error(err)
	}
	if _, err := listTime(dir+"/many", 100); err != nil {
		t.Error(err)
	}
}

func TestPercentile(t *testing.T) {
	values := []float64{5, 1, 4, 2, 3}
	for p, want := range map[float64]float64{0: 1, 50: 3, 99: 5, 100: 5} {
		if got := percentile(values, p); got != want {
			t.Errorf("percentile %v: %v, want %v", p, got, want)
		}
	}
}

func TestTurnsWarmUp(t *testing.T) {
	b := &bench{rounds: 3}
	n := 0.0
	m, err := b.turns(func() (float64, error) { n++; return n, nil })
	if err != nil || m[0] != 3 { // of 2, 3, 4: the first is to warm up
		t.Errorf("median %v, %v", m, err)
	}
}

func TestTable(t *testing.T) {
	r := Result{Row: "write", What: "writing", Target: "0.5", Note: "a note"}
	r.add("native", 1000, "MB/s")
	r.add("stepfs", 700, "MB/s")
	r.Met = true
	table := Report{Results: []Result{r, {Row: "read", What: "reading", Error: "it broke"}}}.Table()
	for _, want := range []string{"native 1000 MB/s", "stepfs 700 MB/s", "yes", "write: a note", "read failed: it broke"} {
		if !strings.Contains(table, want) {
			t.Errorf("no %q in\n%s", want, table)
		}
	}
}
