package integration

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// wantOptions holds the options of a mount to those that must be and must not be there.
func (m *machine) wantOptions(want string, not ...string) {
	m.Helper()
	got := m.options()
	have := strings.Split(got, ",")
	for _, o := range strings.Split(want, ",") {
		if !slices.Contains(have, o) {
			m.Errorf("option %s is missing in %q", o, got)
		}
	}
	for _, o := range not {
		if slices.Contains(have, o) {
			m.Errorf("option %s is in %q", o, got)
		}
	}
}

// TestRootMountsAlone: root needs nothing but the kernel.
func TestRootMountsAlone(t *testing.T) {
	m := newMachine(t)
	m.must("mount", "--bind", "/dev/null", "/usr/bin/fusermount3")
	m.must(m.bin, "mount", "-d", m.store, m.mnt)
	m.wantOptions("rw,nosuid,nodev,user_id=0,default_permissions", "noexec", "allow_other")
	m.must(m.bin, "umount", m.mnt)
	m.must(m.bin, "mount", "-d", "-o", "suid,dev,noexec,noatime,nodiratime,allow_other,ro,_netdev,nofail,x-a=b,fsname=x", "-o", "rw", m.store, m.mnt)
	m.wantOptions("rw,noexec,noatime,nodiratime,allow_other", "nosuid", "nodev", "ro")
	m.must(m.bin, "umount", m.store)
	if got := m.options(); got != "" {
		t.Errorf("still mounted: %s", got)
	}
}

// TestOrdinaryUser: with fusermount3, and a store and mountpoint of their own.
func TestOrdinaryUser(t *testing.T) {
	m := newMachine(t)
	m.userMust(m.bin, "mount", "-d", "-o", "noexec,noatime", m.store, m.mnt)
	m.wantOptions("rw,nosuid,nodev,noexec,noatime,user_id=65534,default_permissions", "allow_other")
	m.userMust("sh", "-c", `echo kept >"$1/a"`, "sh", m.mnt)
	m.userMust(m.bin, "snapshot", m.mnt, "one")
	holder := m.stay(m.mnt, m.mnt+"/a")
	refused(t, m.user(m.bin, "umount", m.mnt), exitError, `busy.*(open|working directory)`)
	refused(t, m.user("fusermount3", "-u", m.mnt), 1, "busy")
	must(t, holder.Process.Kill())
	holder.Wait()
	m.userMust(m.bin, "umount", m.mnt)
	if got := m.options(); got != "" {
		t.Errorf("still mounted: %s", got)
	}
	for _, umount := range [][]string{{"fusermount3", "-u", m.mnt}, {"umount", m.mnt}, {m.bin, "umount", "--force", m.mnt}} {
		m.userMust(m.bin, "mount", "-d", m.store, m.mnt) // the last daemon may still be closing the store
		if got := m.userMust("cat", m.mnt+"/snapshots/one/a"); got != "kept\n" {
			t.Errorf("the snapshot holds %q", got)
		}
		m.userMust(umount...)
		if got := m.options(); got != "" {
			t.Errorf("still mounted after %q: %s", umount, got)
		}
	}
}

// TestOrdinaryUserRefused: what an ordinary user may not, and what is missing.
func TestOrdinaryUserRefused(t *testing.T) {
	m := newMachine(t)
	mount := func(options string) []string { return []string{m.bin, "mount", "-d", "-o", options, m.store, m.mnt} }
	refused(t, m.user(mount("suid")...), exitError, "only root")
	refused(t, m.user(mount("dev")...), exitError, "only root")
	refused(t, m.user(mount("allow_other")...), exitError, "user_allow_other in /etc/fuse.conf")
	must(t, os.WriteFile(m.conf, []byte("user_allow_other\n"), 0o644))
	m.userMust(mount("allow_other")...)
	m.wantOptions("allow_other")
	m.must("ls", m.mnt) // root is somebody else
	m.userMust(m.bin, "umount", m.mnt)

	m.must("mount", "--bind", "/dev/null", "/usr/bin/fusermount3")
	refused(t, m.user(mount("")...), exitError, "fusermount3.*fuse3")
	refused(t, m.user("/sbin/mount.stepfs", m.store, m.mnt), 2, "fusermount3.*fuse3")
	m.must("umount", "/dev/fuse")
	refused(t, m.user(mount("")...), exitError, "/dev/fuse is not for uid 65534")
	m.must("mount", "-t", "tmpfs", "none", "/dev")
	m.must("mknod", "-m", "666", "/dev/null", "c", "1", "3")
	refused(t, m.user(mount("")...), exitError, "there is no /dev/fuse")
	refused(t, m.run("/sbin/mount.stepfs", m.store, m.mnt), 2, "there is no /dev/fuse")
}

// TestMountHelper: mount(8) by both types, with fstab and without.
func TestMountHelper(t *testing.T) {
	m := newMachine(t)
	must(t, os.Chown(m.dir+"/data", 0, 0))
	const options = "noatime,store-limit=500M,on-event=\"cat >/dev/null; true a,b\""
	for _, kind := range []string{"fuse.stepfs", "stepfs"} {
		res := m.run("mount", "-t", kind, m.store, m.mnt, "-o", options+",create")
		if res.Code != 0 || res.Stdout != "" {
			t.Fatalf("%s: %+v", kind, res)
		}
		m.wantOptions("rw,nosuid,nodev,noatime,default_permissions", "noexec")
		if got := m.must("mount", "-t", "fuse.stepfs"); !strings.Contains(got, m.store+" on "+m.mnt+" type fuse.stepfs (rw,nosuid,nodev,noatime") {
			t.Errorf("mount says:\n%s", got)
		}
		if got := m.must(m.bin, "status", m.mnt); !strings.Contains(got, "500.0 MiB") {
			t.Errorf("the limit is not the one of -o:\n%s", got)
		}
		if log, err := os.ReadFile(m.store + "/stepfs.log"); err != nil || strings.Contains(string(log), "on-event failed") {
			t.Errorf("%v\n%s", err, log)
		}
		m.must("umount", m.mnt) // and at once again
	}
	if got := m.must("mount", "-v", "-t", "stepfs", m.store, m.mnt, "-o", "ro"); !strings.Contains(got, "is mounted on "+m.mnt) {
		t.Errorf("-v says %q", got)
	}
	m.wantOptions("ro")
	refused(t, m.run("mount", "-o", "remount,rw", m.mnt), 1, "remount: .* unmount it and mount it again")
	refused(t, m.run("mount", "-t", "stepfs", m.store, mkdir(t, m.dir+"/second")), 32, `in use by pid \d+`)
	refused(t, m.run("mount", "-t", "stepfs", m.store+"2", m.mnt), 32, "already mounted")
	m.must("umount", m.mnt)
	refused(t, m.run("mount", "-t", "stepfs", m.store, m.mnt, "-o", "nolimit"), 1, `no option "nolimit"; the nearest is`)
	refused(t, m.run("mount", "-f", "-t", "stepfs", m.store, m.mnt, "-o", "nolimit"), 1, `nolimit`)
	m.must("mount", "-f", "-t", "stepfs", m.store, m.mnt, "-o", "ro")
	if got := m.options(); got != "" {
		t.Errorf("-f mounts: %s", got)
	}
	m.must("mount", "-s", "-t", "stepfs", m.store, m.mnt, "-o", "nolimit,noexec")
	m.wantOptions("noexec")
	m.must("umount", m.mnt)
}

// TestMountHelperWords: mistakes, and mount(8)'s codes for them.
func TestMountHelperWords(t *testing.T) {
	m := newMachine(t)
	helper := func(args ...string) []string { return append([]string{"/sbin/mount.fuse.stepfs"}, args...) }
	for _, tc := range []struct {
		args []string
		code int
		says string
	}{
		{helper(), 1, "usage: mount.stepfs STORE MOUNTPOINT"},
		{helper(m.store), 1, "usage"},
		{helper(m.store, m.mnt), 32, "no store there.*make it with -o create"},
		{helper(m.store, m.mnt, "x"), 1, "usage"},
		{helper(m.store, m.mnt, "-q"), 1, "unknown shorthand.*usage"},
		{helper(m.store, m.mnt, "-o"), 1, "argument.*usage"},
		{helper(m.store, m.mnt, "-o", "store-limt=1G"), 1, `no option "store-limt"; the nearest is store-limit`},
		{helper(m.store, m.mnt, "-o", "store-limit"), 1, "needs a value"},
		{helper(m.store, m.mnt, "-o", "store-limit=much"), 1, "store-limit.*a size like"},
		{helper(m.store, m.mnt, "-o", "ro=1"), 1, "ro takes no value"},
		{helper(m.store, m.mnt, "-o", "noexec=1"), 1, "noexec takes no value"},
		{helper(m.store, m.mnt, "-o", "on-full=explode"), 1, "expire or stop"},
		{helper(m.store, m.dir+"/missing"), 32, "does not exist.*mkdir"},
		{helper(m.dir+"/no/store", m.mnt, "-o", "create"), 32, "parent directory does not exist"},
		{helper(m.fstab, m.mnt), 32, "is a file"},
		{helper(m.mnt+"/store", m.mnt), 32, "hidden by it"},
		{helper(m.store, m.mnt, "-N", m.dir+"/none"), 32, "mount namespace"},
	} {
		t.Run(strings.Join(tc.args[1:], " "), func(t *testing.T) {
			res := m.run(tc.args...)
			refused(t, res, tc.code, tc.says)
			if !strings.HasPrefix(res.Stderr, "mount.fuse.stepfs: ") || res.Stdout != "" {
				t.Errorf("it says %q and %q", res.Stdout, res.Stderr)
			}
		})
	}
}

// TestFstab: mount -a, a line for everybody, and one that systemd reads.
func TestFstab(t *testing.T) {
	m := newMachine(t)
	must(t, os.WriteFile(m.fstab, []byte(m.store+" "+m.mnt+
		" fuse.stepfs user,exec,_netdev,nofail,x-systemd.automount,x-systemd.requires-mounts-for=/,seal-quiet=10s,create 0 0\n"), 0o644))
	m.userMust("mount", m.mnt)
	m.wantOptions("rw,nosuid,nodev,user_id=65534", "noexec")
	m.userMust("sh", "-c", `echo kept >"$1/a"`, "sh", m.mnt)
	m.userMust("umount", m.mnt)
	m.userMust("mount", m.mnt)
	if got := m.userMust("cat", m.mnt+"/a"); got != "kept\n" {
		t.Errorf("a holds %q", got)
	}
	m.userMust("umount", m.mnt)
	m.must("mount", "-a") // root does the same when the machine starts
	m.wantOptions("rw,user_id=0", "noexec")
	if got := m.must(m.bin, "status", m.mnt); !strings.Contains(got, "by pid") {
		t.Errorf("root's daemon on the user's store:\n%s", got)
	}
	m.must(m.bin, "umount", m.mnt)

	must(t, os.WriteFile(m.fstab, []byte(m.dir+"/rootstore "+m.mnt+" stepfs defaults,nofail 0 0\n"), 0o644))
	m.store = m.dir + "/rootstore"
	if res := m.run("mount", "-a"); !strings.Contains(res.Both(), "no store there") {
		t.Errorf("without a store: %+v", res)
	}
	m.must(m.bin, "mount", "-d", m.store, m.mnt)
	m.must("umount", m.mnt)
	m.must("mount", "-a")
	m.wantOptions("rw,nosuid,nodev,user_id=0")
	m.must("mount", "-a") // sees that it is there
	m.must("umount", m.mnt)
}

// TestOtherNamespace: mount -N mounts there and nowhere else.
func TestOtherNamespace(t *testing.T) {
	m, other := newMachine(t), newMachine(t)
	m.must("mount", "-N", strconv.Itoa(other.holder.Process.Pid), "-t", "stepfs", "-o", "create", m.store, other.mnt)
	if got := m.run("findmnt", other.mnt); got.Code == 0 {
		t.Errorf("it is mounted here:\n%s", got.Stdout)
	}
	if got := other.must("findmnt", "-n", "-o", "SOURCE", other.mnt); strings.TrimSpace(got) != m.store {
		t.Errorf("mounted there: %q", got)
	}
	other.must("umount", other.mnt)
}

// TestDeadMount: what a killed daemon leaves is told of, and cleaned, also by an
// ordinary user, also while somebody is still in it.
func TestDeadMount(t *testing.T) {
	for _, as := range []string{"user", "root"} {
		t.Run(as, func(t *testing.T) {
			m := newMachine(t)
			run, ok := m.run, m.must
			if as == "user" {
				run, ok = m.user, m.userMust
			} else {
				must(t, os.Chown(m.dir+"/data", 0, 0))
			}
			dead := func() {
				t.Helper()
				ok(m.bin, "mount", "-d", "-o", "allow_other", m.store, m.mnt)
				ok("sh", "-c", `echo kept >"$1/a" && mkdir -p -m 777 "$1/d"`, "sh", m.mnt)
				m.stay(m.mnt+"/d", m.mnt+"/a")
				m.killDaemon()
			}
			must(t, os.WriteFile(m.conf, []byte("user_allow_other\n"), 0o644))
			must(t, os.Symlink(m.mnt, m.dir+"/link"))
			dead()
			for _, command := range []string{"status", "snapshots", "stats"} {
				for _, at := range []string{m.mnt, m.dir + "/link", m.mnt + "/d"} {
					res := run(m.bin, command, at)
					if res.Code != 0 || !strings.Contains(res.Stderr, "has died") || !strings.Contains(res.Stderr, "stepfs umount "+m.mnt) {
						t.Errorf("%s %s: %+v", command, at, res)
					}
				}
			}
			res := run(m.bin, "mount", "-d", m.store, m.dir+"/link")
			if res.Code != 0 || !strings.Contains(res.Stderr, "left mounted by a stepfs that died") {
				t.Fatalf("mount over it: %+v", res)
			}
			if got := ok("cat", m.mnt+"/a"); got != "kept\n" {
				t.Errorf("a holds %q", got)
			}
			ok(m.bin, "umount", m.mnt)
			dead()
			ok(m.bin, "umount", m.mnt)
			if got := m.options(); got != "" {
				t.Errorf("still mounted: %s", got)
			}
			dead()
			res = run("/sbin/mount.stepfs", m.store, m.mnt)
			if res.Code != 0 || !strings.Contains(res.Stderr, "left mounted by a stepfs that died") {
				t.Fatalf("mount.stepfs over it: %+v", res)
			}
			ok(m.bin, "umount", m.mnt)
		})
	}
}

// TestUmountOfADeadMount spares the store's live one.
func TestUmountOfADeadMount(t *testing.T) {
	d := mount(t)
	must(t, unix.Kill(d.Pid(), unix.SIGKILL))
	_, err := d.Wait(leaveLimit)
	must(t, err)
	dead := d.Mnt
	d.Mnt = mkdir(t, tempDir(t)+"/mnt")
	must(t, d.Start())
	_, err = root.Must("umount", dead)
	must(t, err)
	fill(t, d.Mnt, 3, 1)
	must(t, d.Stop())
	d.Mnt = dead
}

// TestAutomount: systemd's automount waits at the mountpoint for the mount.
// Whoever opens the directory before it is there waits, too, so the mount must
// not; here nobody would ever answer.
func TestAutomount(t *testing.T) {
	d := prepare(t)
	asked, ask, err := os.Pipe()
	must(t, err)
	defer asked.Close()
	// Who is in the group of this process is not made to wait. It opens the
	// mountpoint for us, so that we can let go who waits.
	systemd := exec.Command("sh", "-c", `read go && exec 3<"$0" && echo open && exec sleep infinity`, d.Mnt)
	systemd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	tell, err := systemd.StdinPipe()
	must(t, err)
	said, err := systemd.StdoutPipe()
	must(t, err)
	must(t, systemd.Start())
	defer func() { systemd.Process.Kill(); systemd.Wait() }()
	must(t, unix.Mount("systemd-1", d.Mnt, "autofs", 0,
		fmt.Sprintf("fd=%d,pgrp=%d,minproto=5,maxproto=5,direct", ask.Fd(), systemd.Process.Pid)))
	must(t, ask.Close())
	t.Cleanup(func() { unix.Unmount(d.Mnt, unix.MNT_DETACH) })
	_, err = tell.Write([]byte("go\n"))
	must(t, err)
	_, err = said.Read(make([]byte, 16))
	must(t, err)
	pid, err := unix.PidfdOpen(systemd.Process.Pid, 0)
	must(t, err)
	defer unix.Close(pid)
	point, err := unix.PidfdGetfd(pid, 3, 0)
	must(t, err)
	defer unix.Close(point)
	var watch sync.WaitGroup
	watch.Go(func() {
		if n, _ := asked.Read(make([]byte, 4096)); n > 0 {
			t.Error("somebody has asked for the mount")
			const catatonic = 0x9362 // AUTOFS_IOC_CATATONIC: who waits is told that there is nothing
			if err := unix.IoctlSetInt(point, catatonic, 0); err != nil {
				t.Error(err)
			}
		}
	})

	must(t, d.Start())
	fill(t, d.Mnt, 3, 1)
	if res, err := root.Stepfs("status", d.Mnt); err != nil || !strings.Contains(res.Stdout, "on "+d.Mnt) {
		t.Errorf("%v\n%s", err, res.Both())
	}
	must(t, d.Stop())
	must(t, asked.SetReadDeadline(time.Now()))
	watch.Wait()
}
