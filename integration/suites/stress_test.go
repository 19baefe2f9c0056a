package suites

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"

	"stepfs/integration/harness"
)

// stressors of the class filesystem that do not run on the mount, and why. The
// test holds the table true: each must be skipped or refused here, and those
// of which it is said, on ext4, too.
var stressExceptions = map[string]struct {
	ext4 bool // the same on ext4
	why  string
}{
	"bind-mount": {true, "stress-ng refuses it itself as one that may hang the machine"},
	"binderfs":   {true, "a file system of its own, which this kernel does not have"},
	"verity":     {true, "fs-verity must have been switched on when an ext4 was made, and FUSE has no request for it"},
	"fiemap":     {false, "FUSE has no request for FS_IOC_FIEMAP; SEEK_DATA and SEEK_HOLE tell the same (see fio and again_test.go)"},
}

// TestStress runs each stressor of stress-ng's class for a moment, four at a
// time, with its own verification.
func TestStress(t *testing.T) {
	d := mount(t)
	here, there := mkdir(t, d.Mnt+"/w"), native(t)
	stressors := stressClass(t)
	if len(stressors) < 40 {
		t.Fatalf("stress-ng lists %q", stressors)
	}
	seconds := 1
	if long {
		seconds = 20
	}
	slots := make(chan struct{}, 4)
	var all sync.WaitGroup
	for _, s := range stressors {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			if err := stressOne(s, here, there, seconds); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for s := range stressExceptions {
		if !strings.Contains(" "+strings.Join(stressors, " ")+" ", " "+s+" ") {
			t.Errorf("stress-ng has no %s: take it out of the table", s)
		}
	}
}

func stressClass(t *testing.T) []string {
	t.Helper()
	res, err := harness.Run("stress-ng", "--class", "filesystem?")
	must(t, err)
	_, list, _ := strings.Cut(res.Both(), "stressors:")
	return strings.Fields(list)
}

func stressOne(s, here, there string, seconds int) error {
	exception, excepted := stressExceptions[s]
	problem, err := stress(s, here, seconds)
	switch {
	case err != nil:
		return err
	case !excepted && problem != "":
		return fmt.Errorf("%s: %s", s, problem)
	case excepted && problem == "":
		return fmt.Errorf("%s runs: take it out of the table", s)
	case excepted && exception.ext4:
		if problem, err = stress(s, there, seconds); err == nil && problem == "" {
			err = fmt.Errorf("%s runs on the native disk", s)
		}
	}
	return err
}

var stressTrouble = regexp.MustCompile(`(?m)^.*(fail:|error:|skipping|disabled).*$`)

// stress runs a stressor in a directory of its own; what it did not do, or
// found wrong, is the problem.
func stress(s, base string, seconds int) (problem string, err error) {
	dir, err := os.MkdirTemp(base, s+"-")
	if err != nil {
		return "", err
	}
	res, err := harness.Run("timeout", "--signal=INT", fmt.Sprint(60+20*seconds), // not a promise: against hanging
		"stress-ng", "--"+s, "1", "--timeout", fmt.Sprint(seconds), "--temp-path", dir, "--verify", "--metrics-brief")
	if err != nil {
		return "", err
	}
	problem = strings.Join(stressTrouble.FindAllString(res.Both(), 5), "\n")
	if res.Code != 0 {
		problem += fmt.Sprintf("\nexit code %d", res.Code)
	}
	return problem, os.RemoveAll(dir)
}
