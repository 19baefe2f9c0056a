package fs

import "golang.org/x/sys/unix"

// MountFlags are what the kernel does with a mount whoever serves it. The zero
// value is what is safe: no set-user-id programs, no devices.
type MountFlags struct {
	Suid, Dev                   bool
	NoExec, NoAtime, NoDirAtime bool
}

// kernelFlag is one flag of mount(2), by the name that fusermount3 takes.
type kernelFlag struct {
	on   bool
	bit  uintptr
	name string
}

func (o MountOptions) flags() []kernelFlag {
	return []kernelFlag{
		{o.ReadOnly, unix.MS_RDONLY, "ro"},
		{!o.Flags.Suid, unix.MS_NOSUID, "nosuid"},
		{!o.Flags.Dev, unix.MS_NODEV, "nodev"},
		{o.Flags.NoExec, unix.MS_NOEXEC, "noexec"},
		{o.Flags.NoAtime, unix.MS_NOATIME, "noatime"},
		{o.Flags.NoDirAtime, unix.MS_NODIRATIME, "nodiratime"},
	}
}

// kernelFlags are the flags for mount(2).
func (o MountOptions) kernelFlags() (bits uintptr) {
	for _, f := range o.flags() {
		if f.on {
			bits |= f.bit
		}
	}
	return bits
}

// flagNames are the same for fusermount3.
func (o MountOptions) flagNames() (names []string) {
	for _, f := range o.flags() {
		if f.on {
			names = append(names, f.name)
		}
	}
	return names
}
