package storedir

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Two things keep a second stepfs out.
//
// flock(2) on STORE/lock decides among the processes of one kernel, across
// containers too, and ends with its process. The file is never removed or
// replaced: two processes would then lock two files of the same name.
//
// The lease, STORE/lease, decides where flock does not reach: on a filesystem
// that several machines mount, flock may be local to each (Lustre with
// localflock, NFS with local_lock) or missing (Lustre without -o flock). It is
// created with O_EXCL, renewed every ten seconds, and a dead one is replaced by
// a rename under a guard (takeOver), so that of two who find it dead only one
// goes on.
//
// Who has flock and finds a lease takes it over at once if
//   - the lease is of this boot: its holder would have the flock, or
//   - the filesystem is local: no other kernel can be alive on it;
//
// and otherwise only when it has not been renewed for a minute. The host's
// name proves nothing: a restarted container has another one on the same
// machine, a rescheduled one the same on another.
//
// A holder that was stopped for longer than that (a paused VM) finds its lease
// gone at its next heartbeat and closes Lost.
type lock struct {
	dir      string
	file     *os.File // STORE/lock, flocked where that works
	leaseF   *os.File
	lease    Lease
	tookOver *Lease

	stop chan struct{}
	done sync.WaitGroup
	lost chan struct{}
}

func hostEnvironment() *environment {
	return &environment{host: hostName(), bootID: BootID(), heartbeat: heartbeat, kind: kindOf, flock: flockExclusive}
}

func flockExclusive(fd int) error {
	for {
		if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != unix.EINTR {
			return err
		}
	}
}

// givenBack is how long a lock is waited for that has no lease: much longer than
// there is between the two when a holder ends, or begins.
const givenBack = 2 * time.Second

func leased(dir string) bool {
	_, err := ReadLease(dir)
	return !errors.Is(err, fs.ErrNotExist)
}

// acquire locks the store or says who has it.
func acquire(dir string, o Options, env *environment, kind Kind) (*lock, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the store's lock: %w", err)
	}
	l := &lock{dir: dir, file: f, stop: make(chan struct{}), lost: make(chan struct{}), lease: newLease(dir, o, env)}
	err = env.flock(int(f.Fd()))
	for end := time.Now().Add(givenBack); errors.Is(err, unix.EWOULDBLOCK) && !leased(dir) && time.Now().Before(end); {
		time.Sleep(time.Millisecond) // its holder has given back the lease, and the lock is next
		err = env.flock(int(f.Fd()))
	}
	flocked := err == nil
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		holder, _, _ := readLease(filepath.Join(dir, leaseName)) // a nameless holder is a holder
		err = &InUseError{Path: dir, Holder: holder}
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOLCK):
		err = nil // the lease alone
	case err != nil:
		err = fmt.Errorf("locking %s: %w", dir, err)
	}
	if err == nil {
		if flocked && !kind.Shared { // nobody else has it: the ballast is ours
			dropBallast(dir)
		}
		err = l.takeLease(env, kind, flocked)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	l.done.Go(func() { l.renew(env.heartbeat) })
	return l, nil
}

func newLease(dir string, o Options, env *environment) Lease {
	return Lease{
		PID: os.Getpid(), ProcStart: processStart(os.Getpid()), Host: env.host, BootID: env.bootID,
		Since: time.Now().UTC().Truncate(time.Second), Command: o.Command, Mountpoint: o.Mountpoint,
		Socket: SocketPath(dir), Nonce: rand.Text(),
	}
}

// takeLease creates the lease or takes over a dead one. A lease that goes away
// in between was given back: look again, a few times.
func (l *lock) takeLease(env *environment, kind Kind, flocked bool) error {
	path := filepath.Join(l.dir, leaseName)
	for range 5 {
		f, err := writeLease(path, l.lease)
		if err == nil {
			l.leaseF = f
			return nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		old, st, err := readLease(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		age, stale := l.age(st), time.Duration(staleAfter)*env.heartbeat
		if !isDead(old, age, stale, env, kind, flocked) {
			return &InUseError{Path: l.dir, Holder: old, Renew: age, Remote: true, Stale: stale}
		}
		alone := flocked && !kind.Shared
		if err := l.takeOver(path, old, stale, alone); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return &InUseError{Path: l.dir}
}

// isDead decides about a lease that another process left; see lock.
func isDead(old Lease, age, stale time.Duration, env *environment, kind Kind, flocked bool) bool {
	sameBoot := old.BootID == env.bootID && env.bootID != ""
	switch {
	case flocked && (sameBoot || !kind.Shared):
		return true
	case !kind.Shared && !sameBoot && old.PID != 0:
		return true // a local filesystem without flock: the other boot has ended
	case sameBoot && processStart(old.PID) == old.ProcStart && old.ProcStart != 0:
		return false // alive, however long it has not renewed
	}
	// A dead pid proves nothing (it may be of another container); time does.
	return age > stale
}

// age is the time since the lease's renewal by the clock that stamped it: that
// of the filesystem, asked by stamping a file of our own.
func (l *lock) age(lease fs.FileInfo) time.Duration {
	now := time.Now()
	if unix.Futimes(int(l.file.Fd()), nil) == nil { // nil: now, by the server where there is one
		if st, err := l.file.Stat(); err == nil {
			now = st.ModTime()
		}
	}
	return now.Sub(lease.ModTime())
}

// takeOver replaces a dead lease. The guard is a file named after the dead
// lease's nonce and created with O_EXCL; only who created it, and then still
// finds that lease in place, may rename its own over it. So the lease's name
// never goes missing, a guard may be removed as soon as the rename is done (who
// creates it again finds another lease), and of many takers one goes on.
//
// A taker that dies with its guard is waited for as a holder would be.
//
// Who holds the flock of a local filesystem is alone: it needs no guard, and
// waits for none that a killed taker left.
func (l *lock) takeOver(path string, old Lease, stale time.Duration, alone bool) error {
	guard := ""
	if !alone {
		var err error
		if guard, err = l.guard(path+guardMark+old.Nonce, stale); err != nil {
			return err
		}
	}
	fresh := path + freshMark + l.lease.Nonce
	f, err := writeLease(fresh, l.lease)
	if err != nil {
		_ = os.Remove(guard)
		return err
	}
	now, _, err := readLease(path)
	if err == nil && now.Nonce != old.Nonce {
		err = &InUseError{Path: l.dir, Holder: now}
	}
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		_ = os.Remove(fresh) // as the guard: the next holder sweeps what stays
		_ = os.Remove(guard)
		return errors.Join(err, f.Close())
	}
	l.leaseF = f
	if old.PID != 0 {
		l.tookOver = &old
	}
	l.sweep(path)
	return nil
}

// guard creates the file that lets one taker go on; a guard as old as a dead
// lease was left by a taker that died, and the next number stands in for it.
func (l *lock) guard(base string, stale time.Duration) (string, error) {
	for n := 1; ; n++ {
		name := fmt.Sprintf("%s-%d", base, n)
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			return name, f.Close()
		}
		if !errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("taking over the store's lease: %w", err)
		}
		if st, err := os.Stat(name); err == nil && l.age(st) > stale {
			continue
		}
		return "", &InUseError{Path: l.dir}
	}
}

// sweep removes what takers left: none of it can matter to a lease that is in place.
func (l *lock) sweep(path string) {
	for _, mark := range []string{guardMark, freshMark} {
		left, _ := filepath.Glob(escapeGlob(path+mark) + "*")
		for _, name := range left {
			_ = os.Remove(name)
		}
	}
}

// escapeGlob makes Glob take a path for what it says.
func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(path)
}

// renew stamps the lease until release, and gives up when it is not ours any
// more. It looks thrice before it believes that a file is missing, or an error.
func (l *lock) renew(every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	for misses := 0; ; {
		select {
		case <-l.stop:
			return
		case <-t.C:
		}
		switch ours, err := l.owned(); {
		case ours:
			misses = 0
			_ = unix.Futimes(int(l.leaseF.Fd()), nil) // a renewal that fails for long is a lease that ends: no harm here
		case err == nil: // somebody else's
			close(l.lost)
			return
		default:
			if misses++; misses == 3 {
				close(l.lost)
				return
			}
		}
	}
}

// owned compares the file at the lease's name with the one that was created.
func (l *lock) owned() (bool, error) {
	mine, err := l.leaseF.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Stat(filepath.Join(l.dir, leaseName))
	if err != nil {
		return false, err
	}
	return os.SameFile(mine, there), nil
}

// release gives the store back: first the lease, if it is still ours, then the
// flock, so that whoever gets the flock finds no lease.
func (l *lock) release() error {
	close(l.stop)
	l.done.Wait()
	var err error
	if ours, _ := l.owned(); ours {
		err = os.Remove(filepath.Join(l.dir, leaseName))
	}
	return errors.Join(err, l.leaseF.Close(), l.file.Close())
}
