package lint

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

// listed is what `go list -json` says of a package, as far as it matters here.
type listed struct {
	ImportPath string
	Imports    []string
}

// TestArrows holds every package of the module to the rules.
func TestArrows(t *testing.T) {
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Imports", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	packages := 0
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; packages++ {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		for _, v := range violations(p.ImportPath, p.Imports) {
			t.Error(v)
		}
	}
	if packages < 3 {
		t.Fatalf("go list gave %d packages: nothing was checked", packages)
	}
	t.Logf("%d packages checked", packages)
}

func TestViolations(t *testing.T) {
	for _, c := range []struct {
		pkg, imp string
		ok       bool
	}{
		{"stepfs/cmd/stepfs", "stepfs/fs", true},
		{"stepfs/cmd/stepfs", "log/slog", true},
		{"stepfs/cmd/stepfs", "github.com/spf13/cobra", true},
		{"stepfs/fs", "stepfs/fs/stage", true},
		{"stepfs/fs", "stepfs/snapshot", true},
		{"stepfs/fs", "github.com/hanwen/go-fuse/v2/fuse", true},
		{"stepfs/snapshot", "stepfs/chunkstore", true},
		{"stepfs/fs/stage/disk", "stepfs/fs/stage", true}, // within one layer
		{"stepfs/fs/stage", "github.com/cockroachdb/pebble/v2/vfs", true},

		{"stepfs/integration/harness", "testing", true},

		{"stepfs/chunkstore/remote/s3", "github.com/aws/aws-sdk-go-v2/service/s3", true},
		{"stepfs/chunkstore/remote/remotetest", "testing", true},

		{"stepfs/chunkstore", "github.com/aws/aws-sdk-go-v2/aws", false},
		{"stepfs/chunkstore/remote/mem", "testing", false},
		{"stepfs/fs", "stepfs/cmd/stepfs", false},
		{"stepfs/fs", "testing", false},
		{"stepfs/bench", "testing", false},
		{"stepfs/fs", "stepfs/chunkstore", false},
		{"stepfs/fs/stage", "stepfs/fs", false},
		{"stepfs/fs/stage", "stepfs/snapshot", false},
		{"stepfs/snapshot", "stepfs/fs/stage", false},
		{"stepfs/fs/stage", "github.com/hanwen/go-fuse/v2/fuse", false},
		{"stepfs/snapshot", "log/slog", false},
		{"stepfs/fs", "github.com/spf13/pflag", false},
		{"stepfs/internal/journal", "stepfs/internal/schema", false},
		{"stepfs/chunkstore/pack", "stepfs/chunkstore", false},
		{"stepfs/integration", "stepfs/fs/stage", false},
		{"stepfs/newthing", "fmt", false},
	} {
		if got := violations(c.pkg, []string{c.imp}); (len(got) == 0) != c.ok {
			t.Errorf("%s importing %s: allowed should be %v, got %q", c.pkg, c.imp, c.ok, got)
		}
	}
}
