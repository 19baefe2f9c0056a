package integration

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"stepfs/integration/harness"
)

// demo is the demo, made shorter, in a directory of its own.
func demo(dir, every string) *exec.Cmd {
	cmd := exec.Command("./demo/demo.sh")
	cmd.Env = append(os.Environ(), "STEPFS="+root.Bin, "DEMO_DIR="+dir, "DEMO_EVERY="+every)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// TestDemo runs `make demo` to its end.
func TestDemo(t *testing.T) {
	out, err := demo(tempDir(t)+"/demo", "4").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "\nDone.") {
		t.Fatalf("%v\n%s", err, out)
	}
	if n := strings.Count(string(out), "each with the SHA-256 that was written"); n != 10 {
		t.Errorf("%d checkpoints were compared, want 10\n%s", n, out)
	}
}

// TestDemoInterrupted: Ctrl-C and SIGTERM, while it trains, leave nothing.
func TestDemoInterrupted(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			dir := tempDir(t) + "/demo"
			cmd := demo(dir, "1000")
			must(t, cmd.Start())
			eventually(t, "it trains", func() bool {
				info, err := os.Stat(dir + "/losses")
				return err == nil && info.Size() > 0
			})
			must(t, syscall.Kill(-cmd.Process.Pid, sig)) // as a terminal does
			if err := cmd.Wait(); err == nil {
				t.Error("the exit code is 0")
			}
			left, err := harness.MountsBelow(dir)
			must(t, err)
			if len(left) > 0 {
				t.Errorf("left mounted: %v", left)
			}
		})
	}
}
