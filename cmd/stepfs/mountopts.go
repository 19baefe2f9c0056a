package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	stepfsfs "stepfs/fs"
)

// optionsFlag is the long name of -o.
const optionsFlag = "options"

// optionList is the flag -o: options as mount(8) and fstab(5) have them. Each is
// one of the kernel's, or a flag of mount, or meant for somebody else. They are
// set as they are read: of two that disagree the later one counts, among
// themselves and among flags.
type optionList struct {
	flags  *pflag.FlagSet // of mount
	kernel *stepfsfs.MountFlags
	given  []string
}

// Type names the flag's value in help texts.
func (l *optionList) Type() string { return "options" }

func (l *optionList) String() string { return strings.Join(l.given, ",") }

// Set sets every option of a list.
func (l *optionList) Set(list string) error {
	if strings.Count(list, `"`)%2 != 0 {
		return fmt.Errorf("a quotation mark is missing in the options %s", list)
	}
	for _, opt := range splitOptions(list) {
		if err := l.set(opt); err != nil {
			return err
		}
		l.given = append(l.given, opt)
	}
	return nil
}

func (l *optionList) set(opt string) error {
	name, value, valued := strings.Cut(unquoteOption(opt), "=")
	switch {
	case isForOthers(name):
		return nil
	case name == "remount":
		return errors.New("remount: a stepfs mount takes no other options while it is there; unmount it and mount it again " +
			"(what the kernel alone does can be changed: mount -i -o remount,ro DIR)")
	}
	set, kernel := kernelOptions[name]
	_, alias := flagAliases[name]
	f := flagOfOption(l.flags, name)
	switch {
	case valued && (kernel || alias):
		return fmt.Errorf("the option %s takes no value", name)
	case kernel:
		set(l.kernel)
		return nil
	case f == nil:
		return unknownOption(l.flags, name)
	case name == "rw": // the one that is a flag's contrary
		value = "false"
	case !valued && f.NoOptDefVal == "":
		return fmt.Errorf("the option %s needs a value: %s=…", name, name)
	case !valued:
		value = f.NoOptDefVal
	}
	if err := l.flags.Set(f.Name, value); err != nil {
		return fmt.Errorf("the option %s: %w", name, errors.Unwrap(err))
	}
	return nil
}

// kernelOptions are what the kernel does with a mount.
var kernelOptions = map[string]func(*stepfsfs.MountFlags){
	"suid": func(k *stepfsfs.MountFlags) { k.Suid = true }, "nosuid": func(k *stepfsfs.MountFlags) { k.Suid = false },
	"dev": func(k *stepfsfs.MountFlags) { k.Dev = true }, "nodev": func(k *stepfsfs.MountFlags) { k.Dev = false },
	"exec": func(k *stepfsfs.MountFlags) { k.NoExec = false }, "noexec": func(k *stepfsfs.MountFlags) { k.NoExec = true },
	"atime": func(k *stepfsfs.MountFlags) { k.NoAtime = false }, "noatime": func(k *stepfsfs.MountFlags) { k.NoAtime = true },
	"relatime":   func(k *stepfsfs.MountFlags) { k.NoAtime = false },
	"diratime":   func(k *stepfsfs.MountFlags) { k.NoDirAtime = false },
	"nodiratime": func(k *stepfsfs.MountFlags) { k.NoDirAtime = true },
}

// flagAliases are the options that are called otherwise than the flag.
var flagAliases = map[string]string{"ro": "read-only", "rw": "read-only", "allow_other": "allow-other"}

// forOthers are options that mount(8), systemd, or a person reads, or that say
// what is so anyway. A mount's source is always its store, by which commands
// find it, and its subtype stepfs: other tools' fsname and subtype are not refused.
var forOthers = []string{"defaults", "auto", "noauto", "nofail", "_netdev", "user", "users", "nouser", "owner", "group",
	"comment", "async", "default_permissions", "fsname", "subtype"}

func isForOthers(name string) bool {
	return slices.Contains(forOthers, name) || strings.HasPrefix(name, "x-") || strings.HasPrefix(name, "X-")
}

// notOptions are flags that would change what the command line itself means.
var notOptions = []string{"help", "store", optionsFlag}

// flagOfOption is the flag that an option sets; nil when there is none.
func flagOfOption(flags *pflag.FlagSet, name string) *pflag.Flag {
	if alias, ok := flagAliases[name]; ok {
		name = alias
	}
	if slices.Contains(notOptions, name) {
		return nil
	}
	return flags.Lookup(name)
}

// isOption says whether mount knows an option at all.
func isOption(flags *pflag.FlagSet, opt string) bool {
	name, _, _ := strings.Cut(opt, "=")
	_, kernel := kernelOptions[name]
	return kernel || isForOthers(name) || name == "remount" || flagOfOption(flags, name) != nil
}

func unknownOption(flags *pflag.FlagSet, name string) error {
	names := slices.Clone(forOthers)
	for known := range kernelOptions {
		names = append(names, known)
	}
	for known := range flagAliases {
		names = append(names, known)
	}
	flags.VisitAll(func(f *pflag.Flag) {
		if !slices.Contains(notOptions, f.Name) {
			names = append(names, f.Name)
		}
	})
	slices.Sort(names)
	nearest := slices.MinFunc(names, func(a, b string) int { return distance(name, a) - distance(name, b) })
	return fmt.Errorf("there is no option %q; the nearest is %s", name, nearest)
}

// splitOptions cuts a list at its commas. As in fstab, a value that has commas
// itself stands between double quotes.
func splitOptions(list string) (all []string) {
	for start, i, quoted := 0, 0, false; i <= len(list); i++ {
		switch {
		case i < len(list) && list[i] == '"':
			quoted = !quoted
		case i == len(list), list[i] == ',' && !quoted:
			if i > start {
				all = append(all, list[start:i])
			}
			start = i + 1
		}
	}
	return all
}

func unquoteOption(opt string) string {
	name, value, _ := strings.Cut(opt, `="`)
	if value, ok := strings.CutSuffix(value, `"`); ok {
		return name + "=" + value
	}
	return opt
}

// distance is how many letters have to be put in, taken out or changed to make
// one word of the other (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := before
			if a[i] != b[j] {
				change++
			}
			before = row[j+1]
			row[j+1] = min(change, before+1, row[j]+1)
		}
	}
	return row[len(b)]
}
