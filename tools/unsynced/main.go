// Unsynced takes every sync out of the code, one at a time, and says which of
// them no test misses.
//
//	go run ./tools/unsynced -copy /tmp/unsynced               # lists what there is to take out
//	go run ./tools/unsynced -copy /tmp/unsynced -run .        # takes each out, and tests
//
// It works on a copy of the tree, in which each call of a sync asks the
// environment first; so all of it is built once. The simulation of power cuts is
// tried before the tests of the package, since it mostly knows soonest; the golden
// traces are not tried, since they know every sync and say nothing of why.
package main

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// where are the packages whose syncs are taken out.
var where = []string{"fs/stage", "chunkstore", "snapshot", "internal/journal", "internal/state", "internal/storedir"}

// what are the calls that make something durable: all of them give an error
// alone, but for cut.Sync, which is Settle for each file of a cut.
var what = []string{"Sync", "SyncData", "SyncDir", "syncDir", "SyncAll", "SyncLive", "Flush"}

const helper = `// Package leftout leaves out one sync.
package leftout

import "os"

var off = os.Getenv("UNSYNCED")

// Do is call, unless it is to be left out.
func Do(place string, call func() error) error {
	if place != off {
		return call()
	}
	_ = os.WriteFile(os.Getenv("UNSYNCED_MET"), nil, 0o600)
	return nil
}
`

// place is one sync: file and line.
type place struct{ pkg, at string }

func main() {
	log.SetFlags(0)
	dir := flag.String("copy", "", "where the copy of the tree goes")
	run := flag.String("run", "", "take out those that match, and test")
	points := flag.String("points", "600", "cuts of the simulation for each")
	flag.Parse()
	if *dir == "" {
		log.Fatal("unsynced: -copy is needed")
	}
	places, err := prepare(*dir)
	if err == nil && *run == "" {
		for _, p := range places {
			fmt.Println(p.at)
		}
	} else if err == nil {
		err = try(*dir, places, regexp.MustCompile(*run), *points)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// prepare copies the tree and rewrites it.
func prepare(dir string) (places []place, err error) {
	copied := exec.Command("sh", "-c", `mkdir -p "$0" && git ls-files -z | xargs -0 cp --parents -t "$0"`, dir)
	if out, err := copied.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("copy the tree: %w: %s", err, out)
	}
	if err := os.MkdirAll(dir+"/internal/leftout", 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(dir+"/internal/leftout/leftout.go", []byte(helper), 0o600); err != nil {
		return nil, err
	}
	for _, pkg := range where {
		files, err := filepath.Glob(filepath.Join(dir, pkg, "*.go"))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			lines, err := rewrite(dir, file)
			if err != nil {
				return nil, err
			}
			for _, at := range lines {
				places = append(places, place{pkg, at})
			}
		}
	}
	return places, nil
}

// rewrite has the syncs of a file ask first, and gives their places.
func rewrite(dir, file string) (places []string, err error) {
	src, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, file, src, 0)
	if err != nil {
		return nil, err
	}
	var calls []*ast.CallExpr
	ast.Inspect(f, func(n ast.Node) bool {
		if c, ok := n.(*ast.CallExpr); ok && isSync(c) {
			calls = append(calls, c)
		}
		return true
	})
	if len(calls) == 0 {
		return nil, nil
	}
	for _, c := range slices.Backward(calls) { // from the end on, so that offsets stay
		from, to := set.Position(c.Pos()), set.Position(c.End())
		rel, _ := filepath.Rel(dir, file)
		at := fmt.Sprintf("%s:%d", rel, from.Line)
		places = append(places, at)
		call := fmt.Sprintf("leftout.Do(%q, func() error { return %s })", at, src[from.Offset:to.Offset])
		src = slices.Concat(src[:from.Offset], []byte(call), src[to.Offset:])
	}
	name := set.Position(f.Name.End()).Offset
	src = slices.Concat(src[:name], []byte("\n\nimport \"stepfs/internal/leftout\"\n"), src[name:])
	slices.Reverse(places)
	return places, os.WriteFile(file, src, 0o600)
}

func isSync(c *ast.CallExpr) bool {
	switch f := c.Fun.(type) {
	case *ast.Ident:
		return f.Name == "syncDir"
	case *ast.SelectorExpr:
		x, _ := f.X.(*ast.Ident)
		return slices.Contains(what, f.Sel.Name) && (x == nil || x.Name != "cut" || f.Sel.Name != "Sync")
	}
	return false
}

// try builds the tests and runs them without each sync.
func try(dir string, places []place, match *regexp.Regexp, points string) error {
	for _, pkg := range append([]string{"internal/sim"}, where...) {
		c := exec.Command("go", "test", "-c", "-o", binary(dir, pkg), "./"+pkg)
		c.Dir = dir
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("build the tests of %s: %w: %s", pkg, err, out)
		}
	}
	missed := 0
	for _, p := range places {
		if !match.MatchString(p.at) {
			continue
		}
		begin := time.Now()
		by, met := dir+"/met", false
		_ = os.Remove(by)
		seen := ""
		for _, t := range []struct{ pkg, skip string }{{"internal/sim", "^Test[^P]"}, {"internal/sim", "TestPowerCut|TestGolden"}, {p.pkg, "^$"}} {
			if seen != "" {
				break
			}
			c := exec.Command("timeout", "600", binary(dir, t.pkg), "-test.skip", t.skip, "-test.failfast")
			c.Dir = filepath.Join(dir, t.pkg)
			c.Env = append(os.Environ(), "UNSYNCED="+p.at, "UNSYNCED_MET="+by, "STEPFS_SIM_POINTS="+points, "STEPFS_SIM_FAULTS=100")
			out, err := c.CombinedOutput()
			if err != nil {
				seen = t.pkg + ": " + firstFailure(string(out))
			}
			if _, err := os.Stat(by); err == nil {
				met = true
			}
		}
		switch {
		case seen != "":
		case met:
			seen, missed = "NOBODY MISSES IT", missed+1
		default:
			seen, missed = "NOT MET", missed+1
		}
		fmt.Printf("%-32s %4.0fs %s\n", p.at, time.Since(begin).Seconds(), seen)
	}
	fmt.Printf("%d that no test misses\n", missed)
	return nil
}

func binary(dir, pkg string) string { return dir + "/" + strings.ReplaceAll(pkg, "/", "-") + ".test" }

// firstFailure is what a test says first of why it failed.
func firstFailure(out string) string {
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if i := strings.Index(line, ".go:"); i > 0 && !strings.Contains(line, "seeds from") && !strings.Contains(line, "powercut_test.go:2") {
			return line[:min(len(line), 220)]
		}
	}
	return strings.TrimSpace(out[:min(len(out), 200)])
}
