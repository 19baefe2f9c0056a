package harness

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Share makes the root a mount of its own whose mounts are seen in other mount
// namespaces, which a daemon with a BootID runs in.
func (r *Root) Share() error {
	if err := unix.Mount(r.Dir, r.Dir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", r.Dir, err)
	}
	return unix.Mount("", r.Dir, "", unix.MS_SHARED, "")
}

// otherBoot is the beginning of a command line whose rest sees another boot id.
// A store tells by it whether the machine went down under it.
func (d *Daemon) otherBoot() ([]string, error) {
	file := d.Mnt + ".boot"
	if err := os.WriteFile(file, []byte(d.BootID+"\n"), 0o444); err != nil {
		return nil, err
	}
	script := `mount --make-rprivate /proc && mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"`
	return []string{"unshare", "--mount", "--propagation", "unchanged", "sh", "-c", script, file}, nil
}
