package integration

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stepfs/integration/harness"
)

// notifySocket plays systemd: it listens where NOTIFY_SOCKET points.
type notifySocket struct {
	*testing.T
	conn *net.UnixConn
	env  string
}

func newNotifySocket(t *testing.T, name string) *notifySocket {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	return &notifySocket{t, conn, "NOTIFY_SOCKET=" + name}
}

// next is the next message, as systemd takes it: variables by name.
func (n *notifySocket) next() map[string]string {
	n.Helper()
	must(n.T, n.conn.SetReadDeadline(time.Now().Add(90*time.Second)))
	b := make([]byte, 64<<10)
	got, err := n.conn.Read(b)
	must(n.T, err)
	vars := map[string]string{}
	for line := range strings.Lines(string(b[:got])) {
		name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		if !ok {
			n.Errorf("not a variable: %q", line)
		}
		vars[name] = value
	}
	return vars
}

// until reads up to the message that has a variable.
func (n *notifySocket) until(name string) map[string]string {
	n.Helper()
	for {
		if vars := n.next(); vars[name] != "" {
			return vars
		}
	}
}

// TestNotify: what systemd is told, in the foreground and with -d.
func TestNotify(t *testing.T) {
	t.Run("foreground", func(t *testing.T) {
		n := newNotifySocket(t, filepath.Join(tempDir(t), "notify"))
		d := prepare(t)
		d.Env = []string{n.env}
		must(t, d.Launch())
		if first := n.next(); first["READY"] != "" || !strings.Contains(first["STATUS"], d.Store) {
			t.Errorf("before it is ready: %v", first)
		}
		ready := n.until("READY")
		if ready["READY"] != "1" || ready["MAINPID"] != strconv.Itoa(d.Pid()) || !strings.Contains(ready["STATUS"], d.Mnt) {
			t.Errorf("ready: %v", ready)
		}
		fill(t, d.Mnt, 3, 1) // ready means that it answers
		f, err := os.Create(d.Mnt + "/open")
		must(t, err)
		must(t, d.Signal(syscall.SIGTERM))
		if stop := n.next(); stop["STOPPING"] != "1" || !strings.Contains(stop["STATUS"], "open for writing") {
			t.Errorf("stopping: %v", stop)
		}
		if !d.Running() {
			t.Error("it has left while a file is open")
		}
		must(t, f.Close())
		if code, err := d.Wait(leaveLimit); err != nil || code != 0 {
			t.Errorf("exit code %d, %v", code, err)
		}
	})
	t.Run("background", func(t *testing.T) {
		n := newNotifySocket(t, fmt.Sprintf("@stepfs-test-%d", os.Getpid()))
		d := prepare(t)
		res, err := harness.RunEnv([]string{n.env}, root.Bin, "mount", "-d", d.Store, d.Mnt)
		must(t, err)
		succeeded(t, res, []string{"mount -d"})
		pid, err := strconv.Atoi(n.until("READY")["MAINPID"])
		must(t, err)
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if err != nil || exe != root.Bin {
			t.Errorf("the daemon is said to be %d, which is %s, %v", pid, exe, err)
		}
		shell(t, "umount", d.Mnt)
		n.until("STOPPING")
		eventually(t, "the daemon's end", func() bool { return unix.Kill(pid, 0) != nil })
	})
	t.Run("failed", func(t *testing.T) {
		n := newNotifySocket(t, filepath.Join(tempDir(t), "notify"))
		d := mount(t)
		res, err := harness.RunEnv([]string{n.env}, root.Bin, "mount", d.Store, mkdir(t, tempDir(t)+"/mnt"))
		must(t, err)
		refused(t, res, exitInUse, "in use")
		must(t, n.conn.SetReadDeadline(time.Now()))
		for b := make([]byte, 4096); ; {
			got, err := n.conn.Read(b)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return
			}
			must(t, err)
			if bytes.Contains(b[:got], []byte("READY")) {
				t.Errorf("it said %q", b[:got])
			}
		}
	})
	t.Run("nobody listens", func(t *testing.T) {
		d := prepare(t)
		d.Env = []string{"NOTIFY_SOCKET=" + tempDir(t) + "/none"}
		must(t, d.Start())
		must(t, d.Stop())
	})
}

// TestSystemdUnit: what make install installs is a unit.
func TestSystemdUnit(t *testing.T) {
	dir := tempDir(t)
	install(t, dir)
	unit := dir + "/prefix/lib/systemd/system/stepfs@"
	must(t, os.Symlink("stepfs@.service", unit+"mnt-ckpt.service"))
	res, err := harness.Run("systemd-analyze", "verify", unit+"mnt-ckpt.service")
	must(t, err)
	if res.Code != 0 || strings.Contains(res.Both(), "stepfs") {
		t.Errorf("systemd-analyze verify: exit code %d\n%s", res.Code, res.Both())
	}
	text, err := os.ReadFile(unit + ".service")
	must(t, err)
	for _, line := range []string{"Type=notify", "ExecStart=" + dir + "/prefix/bin/stepfs mount %f", "ExecStop=-" + dir + "/prefix/bin/stepfs umount %f"} {
		if !strings.Contains(string(text), line+"\n") {
			t.Errorf("%s is missing in\n%s", line, text)
		}
	}
	// As systemd starts it: STEPFS_STORE from the environment, the mountpoint as argument.
	d := prepare(t)
	d.Env = []string{"STEPFS_STORE=" + d.Store}
	res, err = harness.RunEnv(d.Env, root.Bin, "mount", "-d", d.Mnt)
	must(t, err)
	succeeded(t, res, []string{"mount"})
	res, err = harness.RunEnv(d.Env, root.Bin, "umount", d.Mnt)
	must(t, err)
	succeeded(t, res, []string{"umount"})
}

// TestTerminalCloses: a mount in the background outlives its terminal; one in the
// foreground leaves in order, unless nohup started it.
func TestTerminalCloses(t *testing.T) {
	for _, tc := range []struct {
		name, script string
		stays        bool
	}{
		{"background", `"$0" mount -d "$1" "$2"; echo up; exec sleep 1000`, true},
		{"foreground", `exec "$0" mount "$1" "$2"`, false},
		{"nohup", `nohup "$0" mount "$1" "$2" >"$1.out" 2>&1 & exec sleep 1000`, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := prepare(t)
			t.Cleanup(func() { root.Stepfs("umount", "--force", d.Store) }) // when the test has failed
			term := newTerminal(t, "sh", "-c", tc.script, root.Bin, d.Store, d.Mnt)
			eventually(t, "the mount", func() bool {
				res, err := root.Stepfs("status", d.Mnt)
				must(t, err)
				return res.Code == 0 && strings.Contains(res.Stdout, "by pid")
			})
			fill(t, d.Mnt, 3, 1)
			if tc.name == "background" { // nor is a Ctrl-C meant for it, nor a SIGHUP of its own
				_, err := term.master.WriteString("\x03")
				must(t, err)
				must(t, unix.Kill(daemonOf(t, d), unix.SIGHUP))
			}
			term.close()
			if !tc.stays {
				eventually(t, "the mount's end", func() bool { mounted, err := harness.Mounted(d.Mnt); return err == nil && !mounted })
				eventually(t, "the daemon's end", func() bool { _, err := os.Stat(d.Store + "/stepfs.sock"); return errors.Is(err, os.ErrNotExist) })
				return
			}
			must(t, os.WriteFile(d.Mnt+"/after", nil, 0o644))
			_, err := root.Must("umount", d.Mnt)
			must(t, err)
		})
	}
}

// daemonOf is the pid of the daemon that has the store.
func daemonOf(t *testing.T, d *harness.Daemon) int {
	t.Helper()
	lines, err := root.JSONLines("status", "--json", d.Store)
	must(t, err)
	return int(lines[0]["pid"].(float64))
}

// terminal is a pseudo terminal with a session on it.
type terminal struct {
	*testing.T
	master *os.File
	cmd    *exec.Cmd
}

func newTerminal(t *testing.T, name string, args ...string) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	must(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	must(t, err)
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	cmd := exec.Command(name, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, unix.SIGHUP) // so it is not ignored by cmd, though nohup may have started the tests
	defer signal.Stop(hangup)
	must(t, cmd.Start())
	must(t, slave.Close())
	return &terminal{t, master, cmd}
}

// close closes the window: the session gets SIGHUP.
func (term *terminal) close() {
	term.Helper()
	must(term.T, term.master.Close())
	term.cmd.Wait() // by SIGHUP, or by what it makes of that
}

// TestReadOnlyMount: the tree is as it was left, nothing changes it, and the
// next mount finds it so.
func TestReadOnlyMount(t *testing.T) {
	d := mount(t)
	fill(t, d.Mnt, 30, 1)
	file, prog := d.Mnt+"/file", d.Mnt+"/prog"
	must(t, os.WriteFile(file, bytes.Repeat([]byte("x"), 100_000), 0o640))
	must(t, os.Chmod(file, 0o4640))
	must(t, unix.Setxattr(file, "user.x", []byte("1"), 0))
	must(t, os.Link(file, d.Mnt+"/hard"))
	must(t, os.Symlink("file", d.Mnt+"/symlink"))
	must(t, os.Mkdir(d.Mnt+"/empty", 0o700))
	must(t, os.WriteFile(prog, []byte("#!/bin/sh\necho runs\n"), 0o755))
	snapshotNow(t, d, "before")
	want, err := harness.ReadTree(d.Mnt)
	must(t, err)
	must(t, d.Stop())

	d.Args = []string{"-o", "ro"}
	must(t, d.Start())
	for name, attempt := range mutations(d.Mnt) {
		if err := attempt(); !errors.Is(err, unix.EROFS) {
			t.Errorf("%s: %v, want EROFS", name, err)
		}
	}
	res, err := root.Stepfs("rollback", d.Mnt, "before")
	must(t, err)
	refused(t, res, exitError, "mounted read-only")
	unchanged := func() {
		t.Helper()
		got, err := harness.ReadTree(d.Mnt)
		must(t, err)
		if diff := want.Diff(got); diff != "" {
			t.Error(diff)
		}
	}
	unchanged()
	if got := shell(t, prog); got != "runs\n" {
		t.Errorf("a program on it says %q", got)
	}
	f, err := os.Open(file)
	must(t, err)
	b, err := unix.Mmap(int(f.Fd()), 0, 100_000, unix.PROT_READ, unix.MAP_SHARED)
	must(t, err)
	if !bytes.Equal(b, bytes.Repeat([]byte("x"), 100_000)) {
		t.Error("the mapped file holds something else")
	}
	must(t, unix.Munmap(b))
	must(t, f.Close())
	restart(t, d) // a read-only daemon that is killed leaves nothing half done
	unchanged()
	must(t, d.Stop())

	d.Args = nil
	must(t, d.Start())
	unchanged()
	must(t, os.WriteFile(d.Mnt+"/new", nil, 0o644))
	must(t, d.Stop())
}

// mutations is everything that would change a tree with the files above.
func mutations(dir string) map[string]func() error {
	file := dir + "/file"
	open := func(flags int) func() error {
		return func() error { _, err := unix.Open(file, flags, 0o644); return err }
	}
	return map[string]func() error{
		"open for writing":       open(unix.O_WRONLY),
		"open for both":          open(unix.O_RDWR),
		"append":                 open(unix.O_WRONLY | unix.O_APPEND),
		"open and truncate":      open(unix.O_RDONLY | unix.O_TRUNC),
		"create":                 func() error { _, err := unix.Creat(dir+"/new", 0o644); return err },
		"tmpfile":                func() error { _, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR, 0o600); return err },
		"truncate":               func() error { return unix.Truncate(file, 1) },
		"unlink":                 func() error { return unix.Unlink(file) },
		"mkdir":                  func() error { return unix.Mkdir(dir+"/new", 0o755) },
		"rmdir":                  func() error { return unix.Rmdir(dir + "/empty") },
		"mknod":                  func() error { return unix.Mknod(dir+"/new", unix.S_IFIFO|0o600, 0) },
		"link":                   func() error { return unix.Link(file, dir+"/new") },
		"symlink":                func() error { return unix.Symlink("file", dir+"/new") },
		"rename":                 func() error { return unix.Rename(file, dir+"/new") },
		"rename over":            func() error { return unix.Rename(file, dir+"/prog") },
		"exchange":               func() error { return unix.Renameat2(-1, file, -1, dir+"/prog", unix.RENAME_EXCHANGE) },
		"chmod":                  func() error { return unix.Chmod(file, 0o600) },
		"chown":                  func() error { return unix.Chown(file, 1, 1) },
		"lchown":                 func() error { return unix.Lchown(dir+"/symlink", 1, 1) },
		"utimes":                 func() error { return unix.UtimesNanoAt(unix.AT_FDCWD, file, make([]unix.Timespec, 2), 0) },
		"setxattr":               func() error { return unix.Setxattr(file, "user.y", []byte("2"), 0) },
		"removexattr":            func() error { return unix.Removexattr(file, "user.x") },
		"step by xattr":          func() error { return unix.Setxattr(dir, "user.stepfs.step", []byte("7"), 0) },
		"mkdir in snapshots":     func() error { return unix.Mkdir(dir+"/snapshots/new", 0o755) },
		"rmdir in snapshots":     func() error { return unix.Rmdir(dir + "/snapshots/before") },
		"create in a snapshot":   func() error { _, err := unix.Creat(dir+"/snapshots/before/new", 0o644); return err },
		"writable shared mmap":   func() error { return mapWritable(file) },
		"chmod in a snapshot":    func() error { return unix.Chmod(dir+"/snapshots/before/file", 0o600) },
		"truncate in a snapshot": func() error { return unix.Truncate(dir+"/snapshots/before/file", 0) },
	}
}

// mapWritable: no descriptor that could be mapped writable is to be had.
func mapWritable(path string) error {
	fd, err := unix.Open(path, unix.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	b, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	return unix.Munmap(b)
}
