package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// Report is a whole run.
type Report struct {
	Machine Machine
	Results []Result
}

// Result is one row: what was measured, and how it compares with its target.
type Result struct {
	Row    string
	What   string
	Values []Value
	Target string // in words
	Met    bool
	Note   string `json:",omitempty"`
	Error  string `json:",omitempty"` // why it could not be measured
}

// Value is one number.
type Value struct {
	Name  string
	Value float64
	Unit  string
}

// Machine is where it was measured.
type Machine struct {
	Time   time.Time
	Kernel string
	CPUs   int
	MemGiB float64
	FS     string // the file system type below, by its magic number
}

func machine(dir string) Machine {
	m := Machine{Time: time.Now(), CPUs: runtime.NumCPU()}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		m.MemGiB = float64(info.Totalram) * float64(info.Unit) / (1 << 30)
	}
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) == nil {
		m.FS = map[int64]string{unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.TMPFS_MAGIC: "tmpfs"}[int64(st.Type)]
	}
	return m
}

func (m Machine) String() string {
	return fmt.Sprintf("%s, Linux %s, %d CPUs, %.0f GiB, native = %s", m.Time.Format(time.DateTime), m.Kernel, m.CPUs, m.MemGiB, m.FS)
}

func (r *Result) add(name string, value float64, unit string) {
	r.Values = append(r.Values, Value{name, value, unit})
}

// Table is the report for people.
func (r Report) Table() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "row\twhat\tmeasured\ttarget\tmet")
	for _, res := range r.Results {
		met := "no"
		if res.Met {
			met = "yes"
		}
		if res.Error != "" {
			met = "failed"
		}
		for i, v := range res.Values {
			cells := [4]string{}
			if i == 0 {
				cells = [4]string{res.Row, res.What, res.Target, met}
			}
			fmt.Fprintf(w, "%s\t%s\t%s %s %s\t%s\t%s\n", cells[0], cells[1], v.Name, number(v.Value), v.Unit, cells[2], cells[3])
		}
		if len(res.Values) == 0 {
			fmt.Fprintf(w, "%s\t%s\t\t%s\t%s\n", res.Row, res.What, res.Target, met)
		}
	}
	w.Flush()
	for _, res := range r.Results {
		if res.Note != "" {
			fmt.Fprintf(&b, "%s: %s\n", res.Row, res.Note)
		}
		if res.Error != "" {
			fmt.Fprintf(&b, "%s failed: %s\n", res.Row, res.Error)
		}
	}
	return b.String()
}

func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// progress tells a person at a terminal what is going on.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "  "+format+"\n", args...)
}
