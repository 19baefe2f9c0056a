package posix

import (
	"fmt"
	"strconv"
	"strings"
)

// op is one line of a script: who makes which call.
//
//	ann open f1 d/a O_RDWR|O_CREAT 0644
//	ann pwrite f1 5000 8192 7
//	root rename d/a b -
//	all kill
//
// f0 to f2 are descriptors, each process's own. A path is below the directory
// of the run. @255 is a name of 255 bytes, @@4096 a path of 4096.
type op struct {
	who  string
	kind string
	args []string
}

func (o op) String() string {
	words := []string{o.who, o.kind}
	for _, a := range o.args {
		if q := strconv.Quote(a); q[1:len(q)-1] != a || a == "" || strings.ContainsAny(a, " #") {
			a = q
		}
		words = append(words, a)
	}
	return strings.Join(words, " ")
}

func parseOp(line string) (op, error) {
	var words []string
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimSpace(line) {
		if line[0] != '"' {
			word, rest, _ := strings.Cut(line, " ")
			words, line = append(words, word), rest
			continue
		}
		quoted, err := strconv.QuotedPrefix(line)
		if err != nil {
			return op{}, fmt.Errorf("%s: %w", line, err)
		}
		word, _ := strconv.Unquote(quoted)
		words, line = append(words, word), line[len(quoted):]
	}
	if len(words) < 2 {
		return op{}, fmt.Errorf("%q is no operation", line)
	}
	o := op{words[0], words[1], words[2:]}
	k, ok := kinds[o.kind]
	if !ok || len(o.args) != len(k.args) {
		return op{}, fmt.Errorf("%q: no such operation, or not its arguments", o)
	}
	return o, nil
}

func parseScript(text string) ([]op, error) {
	var ops []op
	for _, line := range strings.Split(text, "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		o, err := parseOp(line)
		if err != nil {
			return nil, err
		}
		ops = append(ops, o)
	}
	return ops, nil
}

func formatScript(ops []op) string {
	var b strings.Builder
	for _, o := range ops {
		b.WriteString(o.String() + "\n")
	}
	return b.String()
}

// The processes. ann and bob share a group, and neither is in root's.
var people = []struct {
	name     string
	uid, gid uint32
}{{"root", 0, 0}, {"ann", 1001, 1001}, {"bob", 1002, 1002}, {"ann2", 1001, 1001}}

const sharedGroup = 3000

// slots is how many descriptors each process has at most.
const slots = 3

// kind is an operation: how often it is drawn, what its arguments are (see
// random_test.go), and the call. Those without a call are the harness's own.
type kind struct {
	weight int
	args   []string
	call   func(s *side, a []string) (string, error)
	how
}

// how says what the harness has to know of a kind.
type how uint

const (
	changesContent how = 1 << iota // may write to the file of its last descriptor
	isBarrier                      // a snapshot is recorded once it has succeeded
	wantsPeerOff                   // made on the mount alone, where it must fail
)

func words(s string) []string { return strings.Fields(s) }

// kinds is filled by calls_test.go.
var kinds map[string]kind
