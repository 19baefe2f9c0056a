package fs

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMountFlags: safe unless asked, and the same for root and everybody else.
func TestMountFlags(t *testing.T) {
	for _, tc := range []struct {
		o     MountOptions
		bits  uintptr
		names []string
	}{
		{MountOptions{}, unix.MS_NOSUID | unix.MS_NODEV, []string{"nosuid", "nodev"}},
		{MountOptions{Flags: MountFlags{Suid: true, Dev: true}}, 0, nil},
		{MountOptions{ReadOnly: true, Flags: MountFlags{NoExec: true, NoAtime: true, NoDirAtime: true}},
			unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME,
			[]string{"ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime"}},
	} {
		if got := tc.o.kernelFlags(); got != tc.bits {
			t.Errorf("%+v: %#x, want %#x", tc.o, got, tc.bits)
		}
		if got := tc.o.flagNames(); !slices.Equal(got, tc.names) {
			t.Errorf("%+v: %q, want %q", tc.o, got, tc.names)
		}
	}
}

// TestHelperPath: fusermount3 is found without PATH.
func TestHelperPath(t *testing.T) {
	want, err := HelperPath()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", "")
	if got, err := HelperPath(); err != nil || got != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
}
