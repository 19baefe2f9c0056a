// Command bench measures stepfs against the numbers that were promised, each
// next to native ext4 on the same disk in the same run.
//
//	go run ./bench                        everything, as a table
//	go run ./bench -rows write,create     some rows
//	go run ./bench -json out.json         the same as JSON
//	go run ./bench -quick                 a tenth of the data: to see that it runs
//
// It drives the built binary over real mounts and knows nothing of its inside.
// Each row warms up once, then takes turns between native and stepfs and gives
// the median of five. main.go has the list of rows, measure.go what is common
// to them; a row is one function in a file of its own.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"stepfs/integration/harness"
)

// row is one line of the table.
type row struct {
	name string
	run  func(*bench) (Result, error)
}

var rows = []row{
	{"write", writeOne},
	{"write4", writeFour},
	{"fsync", fsyncAppend},
	{"ingest", ingest},
	{"read", readStored},
	{"many", manySnapshots},
	{"memory", memoryPeak},
	{"memory-cgroup", memoryPeakInCgroup},
	{"busy-fsync", fsyncBesideOthers},
	{"create", createFiles},
	{"prune", pruneBesideWriter},
	{"seal-cost", sealCost},
	{"seal", sealVisible},
	{"scope", largeScope},
	{"database", syncingDatabase},
	{"bigdir", bigDirectory},
	{"clone", cloneRepository},
	{"overwrite", overwriteRandomly},
	{"recovery", recoverStore},
	{"check", checkLarge},
	{"read-data", readData},
	{"upload", uploadPacks},
	{"write-beside-upload", writeBesideUploads},
	{"cold-restore", restoreCold},
	{"attach", attachLarge},
	{"far-restore", restoreFar},
	{"cold-cp", copyCold},
	{"link-restore", linkRestore},
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == childCommand {
		os.Exit(child(os.Args[2:]))
	}
	b, names, jsonPath := parse()
	code, err := b.runAll(names, jsonPath)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	os.Exit(code)
}

func parse() (b *bench, names, jsonPath string) {
	b = &bench{}
	quick := flag.Bool("quick", false, "a tenth of the data and two rounds: shows that it runs, measures little")
	flag.StringVar(&names, "rows", "", "the rows to run, separated by commas (default all)")
	flag.StringVar(&jsonPath, "json", "", "write the results to this file as JSON")
	flag.StringVar(&b.bin, "bin", "", "the stepfs binary (default: build it)")
	flag.StringVar(&b.dir, "dir", "", "measure on the disk of this directory (default: the temporary directory)")
	flag.IntVar(&b.rounds, "rounds", 5, "measurements of each kind, after one to warm up")
	flag.Int64Var(&b.fileMiB, "file", 2048, "MiB of the file of the write rows")
	flag.Int64Var(&b.ingestMiB, "ingest", 1024, "MiB of the file of the ingest and read rows")
	flag.Int64Var(&b.memoryMiB, "memory", 16384, "MiB written in the memory rows")
	flag.Int64Var(&b.closedMiB, "closed", 4096, "MiB that another process closed in the busy-fsync row")
	flag.IntVar(&b.files, "files", 10000, "files of the create, fsync and clone rows")
	flag.IntVar(&b.snapshots, "snapshots", 10000, "snapshots of the many row")
	flag.IntVar(&b.steps, "steps", 1000, "steps of the prune row")
	flag.IntVar(&b.commits, "commits", 100000, "commits of the database row")
	flag.IntVar(&b.scope, "scope", 100000, "files of the scope row")
	flag.IntVar(&b.bigDir, "bigdir", 1000000, "files of the bigdir row")
	flag.Int64Var(&b.overwriteMiB, "overwrite", 1024, "MiB of the file of the overwrite row")
	flag.IntVar(&b.overwriteSeconds, "overwrite-seconds", 100, "how long the overwrite row watches space")
	flag.IntVar(&b.chunks, "chunks", 200000, "chunks of the recovery and check rows")
	flag.IntVar(&b.recoverySnapshots, "recovery-snapshots", 2000, "snapshots of the recovery row")
	flag.Int64Var(&b.checkMiB, "check", 1024, "MiB of each of the two files of the read-data row")
	flag.IntVar(&b.attached, "attached", 10000, "snapshots of the bucket of the attach row")
	flag.Int64Var(&b.uploadMiB, "upload", 1024, "MiB of the step of the rows of a bucket (upload and those after it)")
	flag.Parse()
	if *quick {
		b.chunks, b.recoverySnapshots, b.checkMiB, b.uploadMiB = 20000, 200, 128, 128
		b.attached = 500
		b.bigDir, b.overwriteMiB, b.overwriteSeconds = 20000, 64, 10
		b.rounds, b.fileMiB, b.ingestMiB, b.memoryMiB, b.closedMiB, b.files, b.snapshots, b.steps, b.commits, b.scope = 2, 200, 128, 1024, 400, 1000, 500, 100, 2000, 5000
	}
	return b, names, jsonPath
}

// runAll runs the rows. The exit code is 1 when a row failed to run; a target
// that was missed is said in the table.
func (b *bench) runAll(names, jsonPath string) (code int, err error) {
	if b.root, err = harness.NewRoot(b.dir); err != nil {
		return 1, err
	}
	defer func() {
		if closeErr := b.root.Close(); err == nil && closeErr != nil {
			code, err = 1, closeErr
		}
	}()
	if b.bin != "" {
		b.root.Bin, err = filepath.Abs(b.bin)
	} else {
		err = b.root.Build(false)
	}
	if err != nil {
		return 1, err
	}
	report := Report{Machine: machine(b.root.Dir)}
	fmt.Println(report.Machine)
	for _, r := range rows {
		if names != "" && !strings.Contains(","+names+",", ","+r.name+",") {
			continue
		}
		fmt.Fprintf(os.Stderr, "bench: %s …\n", r.name)
		res, err := r.run(b)
		res.Row = r.name
		if err != nil {
			res.Error = err.Error()
			code = 1
		}
		report.Results = append(report.Results, res)
		b.closeAll()
	}
	fmt.Print(report.Table())
	if jsonPath == "" {
		return code, nil
	}
	out, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return 1, err
	}
	return code, os.WriteFile(jsonPath, append(out, '\n'), 0o644)
}
