package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	stepfsfs "stepfs/fs"
)

// optionsOf parses the flags of mount and gives what they come to.
func optionsOf(t *testing.T, args ...string) (get func(flag string) string, kernel stepfsfs.MountFlags, err error) {
	t.Helper()
	c := mountCommand(&global{})
	err = c.ParseFlags(args)
	f := c.Flags()
	return func(flag string) string { return f.Lookup(flag).Value.String() }, *f.Lookup(optionsFlag).Value.(*optionList).kernel, err
}

func TestMountOptions(t *testing.T) {
	get, kernel, err := optionsOf(t, "--store-limit=1G", "-o", `ro,,noexec,noatime,defaults,_netdev,x-systemd.automount,x-a="b,c",comment=x`,
		"-o", `allow_other,store-limit=2G,no-seal,on-event="a,b=c",user=nobody,suid,dev,exec,nosuid,nodiratime,seal-quiet=10s,verify-on-seal=false`)
	must(t, err)
	for flag, want := range map[string]string{"read-only": "true", "allow-other": "true", "store-limit": "2147483648", "no-seal": "true",
		"on-event": `a,b=c`, "seal-quiet": "10s", "verify-on-seal": "false", "daemon": "false"} {
		if got := get(flag); got != want {
			t.Errorf("--%s is %q, want %q", flag, got, want)
		}
	}
	if want := (stepfsfs.MountFlags{Dev: true, NoAtime: true, NoDirAtime: true}); kernel != want {
		t.Errorf("%+v, want %+v", kernel, want)
	}
	// Of two that disagree the later one counts.
	get, _, err = optionsOf(t, "-o", "ro", "--read-only=false", "--snapdir=visible", "-o", "snapdir=hidden")
	if must(t, err); get("read-only") != "false" || get("snapdir") != "hidden" {
		t.Errorf("read-only %s, snapdir %s", get("read-only"), get("snapdir"))
	}
}

// Every flag of mount can be an option, but for those that would change what the
// command line means.
func TestEveryFlagIsAnOption(t *testing.T) {
	for _, name := range []string{"snapdir", "snapdir-name", "snapshots-only", "read-only", "allow-other", "ingest-workers", "seal-quiet",
		"seal-grace", "no-seal", "grace", "hot-limit", "store-limit", "on-full", "on-event", "verify-on-seal", "log-file", "save-settings", "daemon"} {
		if !isOption(mountCommand(&global{}).Flags(), name+"=x") {
			t.Errorf("%s is no option", name)
		}
	}
	for _, name := range []string{"help", "store", "options", "o", "d", "nonempty", ""} {
		if isOption(mountCommand(&global{}).Flags(), name) {
			t.Errorf("%s is an option", name)
		}
	}
}

func TestMountOptionsRefused(t *testing.T) {
	for list, says := range map[string]string{
		"nonempty":        `there is no option "nonempty"; the nearest is`,
		"read_only":       "the nearest is read-only",
		"allow_others":    "the nearest is allow_other",
		"noatme":          "the nearest is noatime",
		"ro,store-limt=1": "the nearest is store-limit",
		"store=x":         `no option "store"`,
		"help":            `no option "help"`,
		"options=ro":      `no option "options"`,
		"store-limit":     "needs a value",
		"store-limit=x":   "store-limit: ",
		"no-seal=maybe":   "no-seal: ",
		"ro=1":            "ro takes no value",
		"nosuid=1":        "nosuid takes no value",
		"remount,ro":      "unmount it and mount it again",
		`ro,on-event="a`:  "quotation mark",
		"=":               `no option ""`,
	} {
		_, _, err := optionsOf(t, "-o", list)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want words like %q", list, err, says)
		}
	}
	got := stepfs(t, "mount", "-o", "frob", "/nonexistent/s", "/nonexistent/m")
	if want := "stepfs: there is no option \"frob\"; the nearest is "; got.code != exitError || !strings.HasPrefix(got.stderr, want) {
		t.Errorf("%+v", got)
	}
}

func TestSplitOptions(t *testing.T) {
	for in, want := range map[string][]string{
		"": nil, ",": nil, "a": {"a"}, ",a,,b=c,": {"a", "b=c"}, `a="b,c",d`: {`a="b,c"`, "d"}, `a="b,c`: {`a="b,c`},
	} {
		if got := splitOptions(in); !slices.Equal(got, want) {
			t.Errorf("%q: %q", in, got)
		}
	}
	for in, want := range map[string]string{`a="b,c"`: "a=b,c", `a="b"c`: `a="b"c`, `a="`: `a="`, `a=""`: "a=", "a=b": "a=b", `a`: "a"} {
		if got := unquoteOption(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"abc", "abc", 0}, {"abc", "abd", 1}, {"ab", "abc", 1}, {"kitten", "sitting", 3}} {
		if got := distance(tc.a, tc.b); got != tc.want {
			t.Errorf("%q, %q: %d, want %d", tc.a, tc.b, got, tc.want)
		}
	}
}

func TestHelperCall(t *testing.T) {
	c, err := parseHelperCall(strings.Fields("/s /m -s -n -v -N /proc/1/ns/mnt -o rw,suid,dev,frob,x=1 -t fuse.stepfs -o ro"))
	must(t, err)
	if c.source != "/s" || c.target != "/m" || !c.sloppy || !c.verbose || c.fake || c.namespace != "/proc/1/ns/mnt" {
		t.Errorf("%+v", c)
	}
	if got, want := c.mountArgs(), strings.Fields("mount --daemon --options=ro,create=false -- /s /m"); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	c.sloppy = false
	if got := c.mountArgs()[2]; got != "--options=frob,x=1,ro,create=false" {
		t.Error(got)
	}
	if c, err := parseHelperCall([]string{"-fv", "--", "-s", "-m"}); err != nil || c.source != "-s" || !c.fake {
		t.Errorf("%+v, %v", c, err)
	}
	for argv0, want := range map[string]bool{"/sbin/mount.stepfs": true, "mount.fuse.stepfs": true, "stepfs": false, "/bin/mount": false, "": false} {
		if isMountHelper(argv0) != want {
			t.Errorf("%q", argv0)
		}
	}
}

func TestHelperCodes(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{fmt.Errorf("w: %w", &usageError{errors.New("x")}), helperUsage},
		{fmt.Errorf("w: %w", &systemError{errors.New("x")}), helperSystem},
		{context.Canceled, helperInterrupted},
		{&codedError{exitInterrupted, errReported}, helperInterrupted},
		{&codedError{helperSystem, errReported}, helperSystem},
		{&codedError{exitInUse, errors.New("x")}, helperFailed},
		{errors.New("x"), helperFailed},
	} {
		if got := helperCode(tc.err); got != tc.want {
			t.Errorf("%v: %d, want %d", tc.err, got, tc.want)
		}
	}
}

// deadMount mounts as a daemon does that dies at once.
func deadMount(t *testing.T, point, kind, source string) {
	t.Helper()
	fd, err := unix.Open(fuseDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	must(t, err)
	must(t, unix.Mount(source, point, kind, 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)))
	t.Cleanup(func() { unix.Unmount(point, unix.MNT_DETACH) })
	must(t, unix.Close(fd))
}

// Dead mounts may lie one on the other; only what is ours is taken away.
func TestStackedDeadMounts(t *testing.T) {
	point, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	stack := func() { deadMount(t, point, fsType, "/one"); deadMount(t, point, fsType, "/two") }
	stack()
	got := stepfs(t, "umount", point)
	if got.code != 0 || strings.Count(got.stderr, "unmounted it") != 2 || isDead(point) {
		t.Errorf("umount: %+v", got)
	}
	stack()
	mountAgain(t, t.TempDir()+"/store", point)
	if got := stepfs(t, "umount", point); got.code != 0 {
		t.Errorf("%+v", got)
	}
	deadMount(t, point, "fuse.sshfs", "host:")
	for _, args := range [][]string{{"umount", point}, {"mount", t.TempDir() + "/store", point}} {
		if got := stepfs(t, args...); got.code != exitError || !strings.Contains(got.stderr, point) || !isDead(point) {
			t.Errorf("%q: %+v", args, got)
		}
	}
	if got := stepfs(t, "mount", t.TempDir()+"/store", point+"/below"); got.code != exitError || !strings.Contains(got.stderr, "whose process has died") {
		t.Errorf("a mountpoint below it: %+v", got)
	}
}
