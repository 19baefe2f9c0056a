// Command compare says what real checkpoint series take in stepfs and in its
// peers, on the same bytes in the same run: see bench/series/generate.py, which
// makes the series.
//
//	go run ./bench/series/compare -json out.json DIR
//
// DIR/<series>/<step>/<file>. Each series goes step by step, as a job saves it,
// into a store of its own of each kind; the kinds take turns, series by series. Those
// that are not installed are left out.
//
//	restic, kopia  at their strongest compression
//	borg           with zstd
//	cdc            content-defined chunks with zstd, simulated: any deduplicating store
//	codec          planes and deltas of chunkstore/codec, simulated (see its package
//	               simulate): what stepfs could take
//	within         the same, and bf16 weights are deltas from the fp32 of their step
//	stepfs         the built binary, on a mount: what its packs take
//
// Times are of all cores that were used, in seconds of CPU: others may be at
// work. main.go has the table, kinds.go the peers, stepfs.go the mount.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"stepfs/integration/harness"
)

// Result is one series in one kind of store.
type Result struct {
	Series, Kind string
	Raw, Stored  int64
	CPU          float64 // seconds
	Note         string  `json:",omitempty"`
	Error        string  `json:",omitempty"`
}

func main() {
	c := &comparison{}
	bin := flag.String("bin", "", "the stepfs binary (default: build it)")
	jsonPath := flag.String("json", "", "write the results to this file as JSON")
	flag.StringVar(&c.kopia, "kopia", "kopia", "the kopia binary")
	only := flag.String("series", "", "the series to take, separated by commas (default all)")
	kindNames := flag.String("kinds", "", "the kinds of store, separated by commas (default all that are there)")
	flag.BoolVar(&c.inPlace, "in-place", false, "in stepfs, write each step over the one before, not to a directory of its own")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: compare [flags] DIR")
		os.Exit(2)
	}
	if err := c.run(flag.Arg(0), *bin, *only, *kindNames, *jsonPath); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

// comparison is one run.
type comparison struct {
	root    *harness.Root
	kopia   string
	inPlace bool
}

func (c *comparison) run(dir, bin, only, kindNames, jsonPath string) (err error) {
	if c.root, err = harness.NewRoot(""); err != nil {
		return err
	}
	defer func() {
		if closeErr := c.root.Close(); err == nil {
			err = closeErr
		}
	}()
	if bin == "" {
		err = c.root.Build(false)
	} else {
		c.root.Bin, err = filepath.Abs(bin)
	}
	if err != nil {
		return err
	}
	if strings.Contains(c.kopia, "/") { // it runs in other directories
		if c.kopia, err = filepath.Abs(c.kopia); err != nil {
			return err
		}
	}
	all, err := find(dir, only)
	if err != nil {
		return err
	}
	kinds := slices.DeleteFunc(c.kinds(), func(k kind) bool {
		return kindNames != "" && !slices.Contains(strings.Split(kindNames, ","), k.name)
	})
	var results []Result
	for _, s := range all {
		for _, k := range kinds {
			fmt.Fprintf(os.Stderr, "compare: %s in %s …\n", s.name, k.name)
			r := Result{Series: s.name, Kind: k.name, Raw: s.bytes}
			start := computed()
			r.Stored, r.Note, err = k.store(s)
			r.CPU = (computed() - start).Seconds()
			if err != nil {
				r.Error = err.Error()
				fmt.Fprintf(os.Stderr, "compare: %s in %s: %v\n", s.name, k.name, err)
			}
			results = append(results, r)
		}
	}
	printTable(results, kinds)
	if jsonPath == "" {
		return nil
	}
	out, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(jsonPath, append(out, '\n'), 0o644)
}

// series is one on the disk.
type series struct {
	name  string
	steps []string // directories
	bytes int64
}

func find(dir, only string) ([]series, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	paths, err := filepath.Glob(filepath.Join(dir, "*", "[0-9]*"))
	if err != nil {
		return nil, err
	}
	var all []series
	for _, path := range paths {
		name := filepath.Base(filepath.Dir(path))
		if only != "" && !slices.Contains(strings.Split(only, ","), name) {
			continue
		}
		if n := len(all); n == 0 || all[n-1].name != name {
			all = append(all, series{name: name})
		}
		s := &all[len(all)-1]
		n, err := size(path)
		if err != nil {
			return nil, err
		}
		s.steps, s.bytes = append(s.steps, path), s.bytes+n
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no series in %s", dir)
	}
	return all, nil
}

// size adds up the lengths of the files below dir.
func size(dir string) (total int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			total += info.Size()
		}
		return err
	})
	return total, err
}

// computed is what this process and those that it waited for have computed.
func computed() (sum time.Duration) {
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		if err := unix.Getrusage(who, &u); err != nil {
			panic(err) // the arguments are right: never
		}
		sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return sum
}

// printTable has a line for each series: MB and seconds of each kind, and how
// many times less they take that are ours than the best peer.
func printTable(results []Result, kinds []kind) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "series\tMB\t")
	for _, k := range kinds {
		fmt.Fprintf(w, "%s\ts\t", k.name)
	}
	fmt.Fprintln(w, "best peer/codec\t/within\t/stepfs\t")
	for len(results) > 0 {
		line := results[:len(kinds)]
		results = results[len(kinds):]
		fmt.Fprintf(w, "%s\t%.1f\t", line[0].Series, float64(line[0].Raw)/1e6)
		best, mine := int64(0), map[string]int64{}
		for i, r := range line {
			if r.Error != "" {
				fmt.Fprint(w, "failed\t\t")
				continue
			}
			fmt.Fprintf(w, "%.1f\t%.1f\t", float64(r.Stored)/1e6, r.CPU)
			if kinds[i].peer && (best == 0 || r.Stored < best) {
				best = r.Stored
			}
			mine[r.Kind] = r.Stored
		}
		for _, kind := range []string{"codec", "within", "stepfs"} {
			if best == 0 || mine[kind] == 0 {
				fmt.Fprint(w, "\t")
			} else {
				fmt.Fprintf(w, "%.2f\t", float64(best)/float64(mine[kind]))
			}
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	for _, k := range kinds {
		if k.version != "" {
			fmt.Println(k.version)
		}
	}
}
