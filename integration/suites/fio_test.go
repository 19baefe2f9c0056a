package suites

import (
	"fmt"
	"testing"
)

// fioJobs write a pattern with checksums and read it back. Each has a file or
// files of its own.
var fioJobs = []struct {
	name string
	mib  int
	args []string
}{
	{"sequential", 128, []string{"--rw=write", "--bs=128k"}},
	{"random", 48, []string{"--rw=randwrite", "--bs=4k", "--verify_backlog=1024"}},
	{"mixed", 16, []string{"--rw=randrw", "--bsrange=512-64k", "--bs_unaligned=1"}},
	{"mmap", 16, []string{"--rw=randwrite", "--bs=4k", "--ioengine=mmap", "--fsync=512"}},
	{"direct", 32, []string{"--rw=randwrite", "--bs=16k", "--direct=1", "--ioengine=libaio", "--iodepth=8"}},
	{"direct-sequential", 64, []string{"--rw=write", "--bs=1m", "--direct=1"}},
	{"four", 12, []string{"--rw=randwrite", "--bs=8k", "--numjobs=4", "--fsync=64"}},
	{"four-direct", 12, []string{"--rw=randwrite", "--bs=8k", "--numjobs=4", "--direct=1", "--ioengine=libaio", "--iodepth=4"}},
	{"four-mmap", 8, []string{"--rw=randwrite", "--bs=4k", "--numjobs=4", "--ioengine=mmap"}},
}

// fio runs the jobs in a directory and verifies; with check, it verifies only
// what is already there.
func fio(t *testing.T, dir string, check bool) {
	t.Helper()
	times := 1
	if long {
		times = 16
	}
	for _, job := range fioJobs {
		args := []string{"--name=" + job.name, "--directory=" + dir, fmt.Sprintf("--size=%dm", job.mib*times),
			"--ioengine=psync", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--verify_state_save=0", "--group_reporting", "--randseed=7"}
		args = append(args, job.args...)
		if check {
			args = append(args, "--verify_only")
		}
		if _, err := command("fio", args...); err != nil {
			t.Errorf("%s: %v", job.name, err)
		}
	}
}

func TestFio(t *testing.T) {
	d := mount(t)
	fio(t, mkdir(t, d.Mnt+"/w"), false)
	again(t, d, "w", byCp)
}
