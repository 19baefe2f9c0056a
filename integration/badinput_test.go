package integration

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"stepfs/integration/harness"
)

// Exit codes are restic's.
const (
	exitError   = 1
	exitNoStore = 10
	exitInUse   = 11
)

// bad is a mount that must be refused: make lays the ground in dir and gives
// the arguments of mount.
type bad struct {
	name string
	make func(t *testing.T, dir string) []string
	code int
	says string // a regular expression that the message must match
}

// TestMountRefuses: what cannot be mounted is refused at once, with a reason
// that helps, and leaves nothing mounted.
func TestMountRefuses(t *testing.T) {
	for _, c := range badMounts() {
		for _, background := range []bool{false, true} {
			name := c.name
			if background {
				name += ", -d"
			}
			t.Run(name, func(t *testing.T) {
				args := []string{"mount"}
				if background {
					args = append(args, "-d")
				}
				dir := tempDir(t)
				res, err := root.Stepfs(append(args, c.make(t, dir)...)...)
				must(t, err)
				refused(t, res, c.code, c.says)
				stillMounted, err := harness.MountsBelow(dir)
				must(t, err)
				for _, m := range stillMounted {
					if strings.HasPrefix(m.Type, "fuse") && !strings.Contains(c.name, "already") {
						t.Errorf("left mounted: %v", m)
					}
				}
			})
		}
	}
}

// refused holds a command to its exit code and words, and looks for a panic.
func refused(t *testing.T, res harness.Result, code int, says string) {
	t.Helper()
	if res.Code != code || !regexp.MustCompile("(?is)"+says).MatchString(res.Stderr) {
		t.Errorf("exit code %d, want %d and words like %q; it said:\n%s", res.Code, code, says, res.Both())
	}
	noPanic(t, res.Both())
}

func noPanic(t *testing.T, said string) {
	t.Helper()
	if strings.Contains(said, "panic:") || strings.Contains(said, "goroutine ") {
		t.Errorf("a panic:\n%s", said)
	}
}

func badMounts() []bad {
	return []bad{
		{"the store is a file", func(t *testing.T, dir string) []string {
			must(t, os.WriteFile(dir+"/store", []byte("x"), 0o644))
			return []string{dir + "/store", mkdir(t, dir+"/mnt")}
		}, exitError, `store.*(file|not a directory)`},
		{"the store is a foreign directory", func(t *testing.T, dir string) []string {
			must(t, os.WriteFile(mkdir(t, dir+"/store")+"/thesis.txt", []byte("x"), 0o644))
			return []string{dir + "/store", mkdir(t, dir+"/mnt")}
		}, exitError, `not (a|empty).*store|thesis|not empty`},
		{"the store cannot be written", func(t *testing.T, dir string) []string {
			readOnly(t, mkdir(t, dir+"/disk"))
			return []string{dir + "/disk/store", mkdir(t, dir+"/mnt")}
		}, exitError, `read-only|not writable|permission`},
		{"the store's parent is missing", func(t *testing.T, dir string) []string {
			return []string{dir + "/no/such/store", mkdir(t, dir+"/mnt")}
		}, exitError, `no such|does not exist|parent`},
		{"the store is of a newer format", func(t *testing.T, dir string) []string {
			newStore(t, dir+"/store")
			edit(t, dir+"/store/config", "stepfs store 8", "stepfs store 99")
			must(t, os.RemoveAll(dir+"/store/config.bak"))
			return []string{dir + "/store", mkdir(t, dir+"/mnt")}
		}, exitError, `newer|version|format`},
		{"the config is damaged", func(t *testing.T, dir string) []string {
			newStore(t, dir+"/store")
			must(t, os.Truncate(dir+"/store/config", 20))
			must(t, os.RemoveAll(dir+"/store/config.bak"))
			return []string{dir + "/store", mkdir(t, dir+"/mnt")}
		}, exitError, `config`},
		{"the store is in use", func(t *testing.T, dir string) []string {
			d := mount(t)
			return []string{d.Store, mkdir(t, dir+"/mnt")}
		}, exitInUse, `in use.*pid.?\d+|in use.*process.?\d+|in use`},
		{"the mountpoint is missing", func(t *testing.T, dir string) []string {
			return []string{dir + "/store", dir + "/mnt"}
		}, exitError, `mnt.*(no such|does not exist|missing)|(no such|does not exist|missing).*mnt`},
		{"the mountpoint is a file", func(t *testing.T, dir string) []string {
			must(t, os.WriteFile(dir+"/mnt", nil, 0o644))
			return []string{dir + "/store", dir + "/mnt"}
		}, exitError, `not a directory`},
		{"the mountpoint is not empty", func(t *testing.T, dir string) []string {
			must(t, os.WriteFile(mkdir(t, dir+"/mnt")+"/model.pt", []byte("x"), 0o644))
			return []string{dir + "/store", dir + "/mnt"}
		}, exitError, `not empty.*(cp|mv|move|import|rsync)`},
		{"the mountpoint is inside the store", func(t *testing.T, dir string) []string {
			newStore(t, dir+"/store")
			return []string{dir + "/store", mkdir(t, dir+"/store/mnt")}
		}, exitError, `inside`},
		{"the mountpoint is around the store", func(t *testing.T, dir string) []string {
			mkdir(t, dir+"/mnt")
			newStore(t, dir+"/mnt/store")
			return []string{dir + "/mnt/store", dir + "/mnt"}
		}, exitError, `store|not empty`},
		{"the mountpoint is the store", func(t *testing.T, dir string) []string {
			mkdir(t, dir+"/store")
			return []string{dir + "/store", dir + "/store"}
		}, exitError, `store`},
		{"already mounted", func(t *testing.T, dir string) []string {
			return []string{dir + "/store", mount(t).Mnt}
		}, exitError, `mounted|mount`},
		{"no arguments", func(t *testing.T, dir string) []string { return nil }, exitError, `arg|usage|store`},
		{"an unknown flag", func(t *testing.T, dir string) []string {
			return []string{"--fly", dir + "/store", mkdir(t, dir+"/mnt")}
		}, exitError, `fly`},
	}
}

func mkdir(t *testing.T, dir string) string {
	t.Helper()
	must(t, os.Mkdir(dir, 0o755))
	return dir
}

// readOnly makes dir a read-only mount of itself: root is stopped by that too.
func readOnly(t *testing.T, dir string) {
	t.Helper()
	shell(t, "mount", "--bind", dir, dir)
	t.Cleanup(func() { shell(t, "umount", dir) })
	shell(t, "mount", "-o", "remount,ro,bind", dir)
}

// newStore makes a store by mounting it once.
func newStore(t *testing.T, path string) {
	t.Helper()
	d := prepare(t)
	d.Store = path
	must(t, d.Start())
	must(t, d.Stop())
}

// edit replaces a string in a file, which has to be there.
func edit(t *testing.T, path, from, to string) {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	if !strings.Contains(string(b), from) {
		t.Fatalf("%s has no %q", path, from)
	}
	must(t, os.WriteFile(path, []byte(strings.Replace(string(b), from, to, 1)), 0o600))
}

// TestCommandsRefuse: the other commands, with stores and steps that are not.
func TestCommandsRefuse(t *testing.T) {
	d := mount(t)
	fill(t, d.Mnt, 10, 1)
	snapshotNow(t, d, "here")
	empty, out := tempDir(t), tempDir(t)
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"snapshots " + empty + "/nothing", exitNoStore, "no.*store|no such"},
		{"snapshots " + empty, exitNoStore, "no.*store|not a"},
		{"status " + empty, exitNoStore, ""},
		{"stats " + empty, exitNoStore, ""},
		{"drain " + empty, exitNoStore, ""},
		{"restore " + empty + " here " + out + "/x", exitNoStore, ""},
		{"restore " + d.Store + " nowhere " + out + "/x", exitError, "nowhere"},
		{"restore " + d.Store + " here:no/such/path " + out + "/x", exitError, "no/such/path|no such"},
		{"rollback " + d.Mnt + " nowhere", exitError, "nowhere"},
		{"snapshot " + d.Mnt + " here", exitError, "exist"},
		{"snapshot " + d.Mnt + " a/b", exitError, "name"},
		{"umount " + empty, exitError, "mount"},
		{"frobnicate", exitError, "frobnicate"},
	} {
		t.Run(c.args, func(t *testing.T) {
			res, err := root.Stepfs(strings.Fields(c.args)...)
			must(t, err)
			refused(t, res, c.code, c.says)
		})
	}
}

// TestNames: what a name may be is the kernel's rule, to the byte.
func TestNames(t *testing.T) {
	d := mount(t)
	longest := strings.Repeat("n", 255)
	must(t, os.WriteFile(filepath.Join(d.Mnt, longest), []byte("x"), 0o644))
	err := os.WriteFile(filepath.Join(d.Mnt, longest+"n"), []byte("x"), 0o644)
	if !errors.Is(err, errNameTooLong) {
		t.Errorf("a name of 256 bytes: %v, want ENAMETOOLONG", err)
	}
	err = os.Mkdir(filepath.Join(d.Mnt, "snapshots", longest+"n"), 0o755)
	if !errors.Is(err, errNameTooLong) {
		t.Errorf("a snapshot's name of 256 bytes: %v, want ENAMETOOLONG", err)
	}
	for _, name := range []string{"\xff\xfe not UTF-8", "new\nline", "-rf", " ", "ünïcödé", "~", "*"} {
		must(t, os.WriteFile(filepath.Join(d.Mnt, name), []byte(name), 0o644))
	}
	want, err := harness.ReadTree(d.Mnt)
	must(t, err)
	if len(want) != 8 {
		t.Errorf("%d names, want 8: %v", len(want), want)
	}
	snap := snapshotNow(t, d, "names")
	restart(t, d)
	same(t, snap, d.Mnt)
}

// TestNoFuseDevice: without /dev/fuse the message says so.
func TestNoFuseDevice(t *testing.T) {
	dir := tempDir(t)
	mkdir(t, dir+"/mnt")
	res, err := harness.Run("unshare", "--mount", "sh", "-c",
		`mkdir "$1/dev" && mount --bind "$1/dev" /dev && exec "$2" mount "$1/store" "$1/mnt"`, "sh", dir, root.Bin)
	must(t, err)
	refused(t, res, exitError, "/dev/fuse")
}

// TestLongStorePath: a store whose path is too long for a socket works.
func TestLongStorePath(t *testing.T) {
	d := prepare(t)
	d.Store = filepath.Join(filepath.Dir(d.Mnt), strings.Repeat("long/", 40), "store")
	must(t, os.MkdirAll(filepath.Dir(d.Store), 0o755))
	must(t, d.Start())
	fill(t, d.Mnt, 10, 1)
	for _, args := range [][]string{{"snapshot", d.Mnt, "long"}, {"status", d.Store}, {"snapshots", d.Store}} {
		_, err := root.Must(args...)
		must(t, err)
	}
	must(t, d.Stop())
}

// TestOtherFileSystems: a store on tmpfs, overlay or xfs works, or is refused
// with advice.
func TestOtherFileSystems(t *testing.T) {
	for _, kind := range []string{"tmpfs", "overlay", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			dir := otherFS(t, kind)
			d := prepare(t)
			d.Store = dir + "/store"
			if err := d.Start(); err != nil {
				noPanic(t, d.Output())
				if !strings.Contains(d.Output(), kind) {
					t.Errorf("refused without a word about %s:\n%s", kind, d.Output())
				}
				return
			}
			fill(t, d.Mnt, 50, 1)
			snap := snapshotNow(t, d, "other")
			restart(t, d)
			same(t, snap, d.Mnt)
			must(t, d.Stop())
		})
	}
}

// otherFS gives a directory on a file system of the kind.
func otherFS(t *testing.T, kind string) string {
	t.Helper()
	base := tempDir(t)
	dir := mkdir(t, base+"/fs")
	switch kind {
	case "tmpfs":
		shell(t, "mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", dir)
	case "overlay":
		options := "lowerdir=" + mkdir(t, base+"/lower") + ",upperdir=" + mkdir(t, base+"/upper") + ",workdir=" + mkdir(t, base+"/work")
		shell(t, "mount", "-t", "overlay", "-o", options, "overlay", dir)
	default:
		disk, err := root.NewLoopFS(kind, 1<<30)
		must(t, err)
		t.Cleanup(func() { must(t, disk.Close()) })
		return disk.Dir
	}
	t.Cleanup(func() { shell(t, "umount", dir) })
	return dir
}
