package suites

import (
	"regexp"
	"strings"
	"testing"
)

// TestDbench runs the load of a file server from the package: four clients, and
// then two who sync each write and each directory, so that everything is a
// barrier.
func TestDbench(t *testing.T) {
	seconds := "6"
	if long {
		seconds = "120"
	}
	d := mount(t)
	for _, args := range [][]string{{"-t", seconds, "4"}, {"-s", "-S", "-t", seconds, "2"}} {
		dir := mkdir(t, d.Mnt+"/w"+strings.Join(args, ""))
		out := shell(t, "dbench", append([]string{"-D", dir}, args...)...)
		// A client tells of what failed in a line that begins with its number.
		if regexp.MustCompile(`(?m)^\[\d+\]|ERROR`).MatchString(out) || !regexp.MustCompile(`Throughput [1-9]`).MatchString(out) {
			t.Errorf("dbench %q:\n%s", args, out)
		}
	}
	shell(t, "cp", "-a", "/usr/share/dbench", d.Mnt+"/load")
	again(t, d, "", byCp)
}
