package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"stepfs/integration/harness"
)

// nobody is an ordinary user.
const nobody = 65534

// machine is a mount namespace of its own in which stepfs is installed: with
// mount(8)'s helpers, an fstab, and a /dev/fuse and fuse.conf for everybody.
// Nothing of it is seen outside, and the real machine stays as it is.
type machine struct {
	*testing.T
	dir, bin    string
	store, mnt  string // both nobody's
	fstab, conf string // files that are /etc/fstab and /etc/fuse.conf inside
	holder      *exec.Cmd
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	must(t, os.Chmod(root.Dir, 0o711)) // an ordinary user goes through it
	dir := tempDir(t)
	must(t, os.Chmod(dir, 0o755))
	m := &machine{T: t, dir: dir, bin: dir + "/prefix/bin/stepfs",
		store: mkdir(t, dir+"/data") + "/store", mnt: mkdir(t, dir+"/mnt"),
		fstab: dir + "/fstab", conf: dir + "/fuse.conf"}
	install(t, dir)
	must(t, os.Chown(dir+"/data", nobody, nobody))
	must(t, os.Chown(m.mnt, nobody, nobody))
	must(t, os.WriteFile(m.fstab, nil, 0o644))
	must(t, os.WriteFile(m.conf, nil, 0o644))
	must(t, unix.Mknod(dir+"/fuse", unix.S_IFCHR, int(unix.Mkdev(10, 229))))
	must(t, os.Chmod(dir+"/fuse", 0o666))

	m.holder = exec.Command("unshare", "--mount", "--propagation", "private", "sleep", "infinity")
	must(t, m.holder.Start())
	t.Cleanup(m.close)
	ours := namespaceOf(t, os.Getpid())
	eventually(t, "a mount namespace", func() bool { return namespaceOf(t, m.holder.Process.Pid) != ours })
	m.must("mount", "-t", "overlay", "-o", "lowerdir="+dir+"/sbin:/usr/sbin", "overlay", "/usr/sbin")
	for file, at := range map[string]string{m.fstab: "/etc/fstab", m.conf: "/etc/fuse.conf", dir + "/fuse": "/dev/fuse"} {
		m.must("mount", "--bind", file, at)
	}
	return m
}

// install has make install put everything below dir.
func install(t *testing.T, dir string) {
	t.Helper()
	shell(t, "make", "-s", "-C", "..", "-o", "build", "install",
		"BIN="+root.Bin, "PREFIX="+dir+"/prefix", "SBINDIR="+dir+"/sbin")
}

func namespaceOf(t *testing.T, pid int) string {
	t.Helper()
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	must(t, err)
	return ns
}

// close ends whatever still runs in the namespace, which ends with it.
func (m *machine) close() {
	if m.Failed() {
		log, _ := os.ReadFile(m.store + "/stepfs.log")
		m.Logf("the daemon's log:\n%s", log)
	}
	ns := namespaceOf(m.T, m.holder.Process.Pid)
	m.run("umount", "-l", "-a", "-t", "fuse.stepfs") // there may be none
	for _, pid := range m.daemons() {
		unix.Kill(pid, unix.SIGTERM)
	}
	eventually(m.T, "the end of the daemons in "+ns, func() bool { return len(m.daemons()) == 0 })
	must(m.T, m.holder.Process.Kill())
	m.holder.Wait()
}

// daemons are the processes in the namespace that run stepfs.
func (m *machine) daemons() (pids []int) {
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	must(m.T, err)
	for _, link := range links {
		if exe, err := os.Readlink(link); err != nil || exe != m.bin {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link)))
		must(m.T, err)
		pids = append(pids, pid)
	}
	return pids
}

// run runs a command inside, without PATH and HOME, as systemd does.
func (m *machine) run(args ...string) harness.Result {
	m.Helper()
	res, err := harness.Run("nsenter", append([]string{"--target", strconv.Itoa(m.holder.Process.Pid), "--mount", "env", "-i"}, args...)...)
	must(m.T, err)
	noPanic(m.T, res.Both())
	return res
}

// user runs a command inside as the ordinary user.
func (m *machine) user(args ...string) harness.Result {
	m.Helper()
	return m.run(append([]string{"setpriv", fmt.Sprintf("--reuid=%d", nobody), fmt.Sprintf("--regid=%d", nobody), "--clear-groups"}, args...)...)
}

// must runs a command inside that has to end with 0, and gives its output.
func (m *machine) must(args ...string) string {
	m.Helper()
	return succeeded(m.T, m.run(args...), args)
}

// userMust is must for the ordinary user.
func (m *machine) userMust(args ...string) string {
	m.Helper()
	return succeeded(m.T, m.user(args...), args)
}

func succeeded(t *testing.T, res harness.Result, args []string) string {
	t.Helper()
	if res.Code != 0 {
		t.Fatalf("%q: exit code %d\n%s", args, res.Code, res.Both())
	}
	return res.Stdout
}

// options are those of the mount on mnt, as the kernel has them; "" without one.
func (m *machine) options() string {
	m.Helper()
	res := m.run("findmnt", "-n", "-t", "fuse.stepfs", "-o", "SOURCE,OPTIONS", m.mnt)
	source, options, _ := strings.Cut(strings.TrimSpace(res.Stdout), " ")
	if res.Code == 0 && source != m.store {
		m.Errorf("the source is %q, want %q", source, m.store)
	}
	return strings.TrimSpace(options)
}

// killDaemon leaves a dead mount.
func (m *machine) killDaemon() {
	m.Helper()
	pids := m.daemons()
	if len(pids) != 1 {
		m.Fatalf("daemons: %v", pids)
	}
	must(m.T, unix.Kill(pids[0], unix.SIGKILL))
	eventually(m.T, "the daemon's end", func() bool { return len(m.daemons()) == 0 })
}

// stay starts a process inside, in a directory and with a file open, and ends it with the test.
func (m *machine) stay(dir, file string) *exec.Cmd {
	m.Helper()
	cmd := exec.Command("nsenter", "--target", strconv.Itoa(m.holder.Process.Pid), "--mount",
		"setpriv", fmt.Sprintf("--reuid=%d", nobody), fmt.Sprintf("--regid=%d", nobody), "--clear-groups",
		"sh", "-c", `cd "$1" && exec 3<"$2" && echo there && exec sleep infinity`, "sh", dir, file)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	must(m.T, err)
	must(m.T, cmd.Start())
	m.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if n, err := out.Read(make([]byte, 16)); n == 0 {
		m.Fatalf("the process that stays there: %v", err)
	}
	return cmd
}
