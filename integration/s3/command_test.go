package s3

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"strings"
	"testing"

	"stepfs/chunkstore/remote"
	"stepfs/integration/harness"
)

// root is the directory of this run, with the binary in it.
var root *harness.Root

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(harness.Main(m, &root, nil))
}

// stepfs runs the command with credentials in its environment.
func stepfs(t *testing.T, s *server, secret string, args ...string) (said string, code int) {
	t.Helper()
	cmd := exec.Command(root.Bin, args...)
	cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID="+accessKey, "AWS_SECRET_ACCESS_KEY="+secret, "AWS_REGION="+region, "AWS_ENDPOINT_URL_S3="+s.url)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// The command says what a server can do, and what a liar can't; errors say what
// is wrong; no secret is printed.
func TestCommand(t *testing.T) {
	srv := versitygw(t)
	bucket := srv.bucket(t)
	must(t, open(t, srv.options(bucket)).Put(t.Context(), "run/packs/00", remote.Bytes([]byte("x"))))
	liar := gofakes3(t)
	for _, c := range []struct {
		server *server
		secret string
		args   string
		code   int
		says   []string
	}{
		{srv, secretKey, "remote check s3://BUCKET/run", 0, []string{"put if absent  ", "CRC-32C: yes"}},
		{srv, secretKey, "remote check --json s3://BUCKET/run", 0, []string{`"usable":true`, `{"name":"put if absent","verdict":"yes","needed":true`}},
		{srv, secretKey, "remote ls --objects s3://BUCKET/run packs/", 0, []string{"packs/00"}},
		{srv, "wrong-secret", "remote ls s3://BUCKET/run", 1, []string{"the secret key is wrong"}},
		{srv, secretKey, "remote ls s3://BUCKET/empty", 10, []string{"nothing is published", "it is empty"}},
		{srv, secretKey, "restore s3://BUCKET/run 7 /nonexistent", 10, []string{"in use by something that is not stepfs", "packs/00"}},
		{srv, "wrong-secret", "restore s3://BUCKET/run 7 /nonexistent", 1, []string{"the secret key is wrong"}},
		{srv, secretKey, "restore s3://no-such-bucket 7 /nonexistent", 1, []string{"there is no such bucket"}},
		{srv, secretKey, "remote check s3://no-such-bucket", 1, []string{"s3://no-such-bucket", "there is no such bucket"}},
		{srv, secretKey, "remote check s3://BUCKET?region=eu-north-7", 1, []string{"the region is wrong"}},
		{srv, secretKey, "remote ls s3://BUCKET?region=eu-north-7", 1, []string{"the region is wrong"}},
		{liar, secretKey, "remote check s3://" + liar.bucket(t), 0, []string{"verifies what it is sent", "SHA-256 of the signature: no", "deletes all the same"}},
	} {
		t.Run(c.args, func(t *testing.T) {
			said, code := stepfs(t, c.server, c.secret, strings.Fields(strings.ReplaceAll(c.args, "BUCKET", bucket))...)
			if code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			for _, s := range c.says {
				if !strings.Contains(said, s) {
					t.Errorf("it does not say %q", s)
				}
			}
			if strings.Contains(said, c.secret) || strings.Contains(said, "goroutine") {
				t.Error("a secret, or a panic")
			}
			if t.Failed() {
				t.Log(said)
			}
		})
	}
}
