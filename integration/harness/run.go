package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// runTimeout bounds one command; nothing that the tests run takes near as long,
// not even the long variants.
const runTimeout = time.Hour

// Result is how a command ended.
type Result struct {
	Code           int
	Stdout, Stderr string
}

// Both is everything that was printed.
func (r Result) Both() string { return r.Stdout + r.Stderr }

// Run runs a command to its end. An exit code other than 0 is a result, not an
// error.
func Run(name string, args ...string) (Result, error) {
	return RunEnv(nil, name, args...)
}

// RunEnv is Run with more environment.
func RunEnv(env []string, name string, args ...string) (Result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), runTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.WaitDelay = time.Second
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	res := Result{cmd.ProcessState.ExitCode(), out.String(), errOut.String()}
	var exit *exec.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		err = nil
	}
	// What a background child keeps open is not ours to wait for.
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	return res, err
}

// Stepfs runs a stepfs command.
func (r *Root) Stepfs(args ...string) (Result, error) { return Run(r.Bin, args...) }

// Must runs a stepfs command that has to end with 0, and gives its output.
func (r *Root) Must(args ...string) (string, error) {
	res, err := r.Stepfs(args...)
	if err == nil && res.Code != 0 {
		err = fmt.Errorf("exit code %d: %s", res.Code, res.Both())
	}
	if err != nil {
		return "", fmt.Errorf("stepfs %s: %w", strings.Join(args, " "), err)
	}
	return res.Stdout, nil
}

// JSONLines runs a stepfs command that prints JSON Lines and decodes them.
func (r *Root) JSONLines(args ...string) ([]map[string]any, error) {
	out, err := r.Must(args...)
	if err != nil {
		return nil, err
	}
	var all []map[string]any
	for dec := json.NewDecoder(strings.NewReader(out)); ; {
		var one map[string]any
		if err := dec.Decode(&one); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("stepfs %s: %w in %q", strings.Join(args, " "), err, out)
		}
		all = append(all, one)
	}
}

// runQuiet runs a command of the system that has to end with 0.
func runQuiet(name string, args ...string) error {
	res, err := Run(name, args...)
	if err == nil && res.Code != 0 {
		err = fmt.Errorf("%s %s: exit code %d: %s", name, strings.Join(args, " "), res.Code, res.Both())
	}
	return err
}
