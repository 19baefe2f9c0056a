package storedir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Lease says who holds the store. It stands as JSON in STORE/lease while the
// store is open; the file's modification time is its last renewal.
type Lease struct {
	PID        int       `json:"pid"`
	ProcStart  uint64    `json:"process_start"` // clock ticks after boot: tells a process from a later one of the same pid
	Host       string    `json:"host"`
	BootID     string    `json:"boot_id"`
	Since      time.Time `json:"since"`
	Command    string    `json:"command"`
	Mountpoint string    `json:"mountpoint,omitempty"`
	Socket     string    `json:"socket,omitempty"` // where the holder listens, if it does
	Nonce      string    `json:"nonce"`            // no two leases are equal
}

// A holder renews its lease every heartbeat; one that has not been renewed for
// staleAfter belongs to nobody. The factor leaves room for a host that is busy
// or a server that fails over.
const (
	heartbeat  = 10 * time.Second
	staleAfter = 6 // heartbeats
)

// String names the holder as people know it.
func (l Lease) String() string {
	if l.PID == 0 {
		return "another process"
	}
	s := fmt.Sprintf("pid %d on %s (stepfs %s", l.PID, l.Host, l.Command)
	if l.Mountpoint != "" {
		s += ", mounted at " + l.Mountpoint
	}
	return s + ")"
}

// InUseError says who has the store open. It is an ErrInUse.
type InUseError struct {
	Path   string
	Holder Lease
	Renew  time.Duration // since the last renewal
	Remote bool          // held on another machine: only time or a person can end it
	Stale  time.Duration // when Remote: how long without renewal until it can be taken over
}

func (e *InUseError) Error() string {
	s := fmt.Sprintf("%s: %v by %v", e.Path, ErrInUse, e.Holder)
	if !e.Holder.Since.IsZero() {
		s += " since " + e.Holder.Since.Local().Format("2006-01-02 15:04:05 MST")
	}
	if e.Remote {
		s += fmt.Sprintf("; its lease was renewed %v ago and ends %v after the last renewal: if that machine or process is gone, try again then",
			e.Renew.Round(time.Second), e.Stale)
	}
	return s
}

// Unwrap makes errors.Is(err, ErrInUse) true.
func (e *InUseError) Unwrap() error { return ErrInUse }

// ReadLease tells who holds the store at path, without locking anything. The
// holder may be dead; ask its socket. fs.ErrNotExist: nobody since a clean close.
func ReadLease(path string) (Lease, error) {
	l, _, err := readLease(filepath.Join(path, leaseName))
	return l, err
}

// readLease returns a Lease of nobody for a file that is empty or damaged: its
// maker may be between creating and writing it, or have died there. Its age
// counts all the same.
func readLease(path string) (Lease, fs.FileInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return Lease{}, nil, fmt.Errorf("reading the store's lease: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return Lease{}, nil, fmt.Errorf("reading the store's lease: %w", err)
	}
	data := make([]byte, 64<<10)
	n, err := f.ReadAt(data, 0)
	if n == 0 && err != nil && st.Size() > 0 {
		return Lease{}, nil, fmt.Errorf("reading the store's lease: %w", err)
	}
	var l Lease
	if json.Unmarshal(data[:n], &l) != nil || !plainNonce(l.Nonce) {
		l = Lease{Nonce: fmt.Sprintf("unreadable-%d", st.ModTime().UnixNano())}
	}
	return l, st, nil
}

// plainNonce guards the file name that takeOver makes of it.
func plainNonce(s string) bool {
	return len(s) > 0 && len(s) <= 64 && strings.IndexFunc(s, func(r rune) bool {
		return r != '-' && !('a' <= r && r <= 'z') && !('A' <= r && r <= 'Z') && !('0' <= r && r <= '9')
	}) < 0
}

// writeLease creates the lease file, or fails with fs.ErrExist. O_EXCL is
// atomic on every filesystem that stepfs runs on, over the network too.
func writeLease(path string, l Lease) (*os.File, error) {
	data, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the store's lease: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("writing the store's lease: %w", err)
	}
	_, err = f.Write(append(data, '\n'))
	if err == nil {
		err = f.Sync() // not for a crash: so that other machines see it
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("writing the store's lease: %w", err), f.Close(), os.Remove(path))
	}
	return f, nil
}
