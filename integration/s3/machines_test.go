package s3

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stepfs/integration/harness"
)

// machine is a network namespace with one cable to us, which can be cut.
type machine struct {
	name   string
	cable  string // our end
	server string // where it finds us
}

// newMachine plugs one in. Its names and addresses are those of this process.
func newMachine(t *testing.T, k int) *machine {
	t.Helper()
	pid := os.Getpid()
	net := fmt.Sprintf("10.%d.%d.", 100+pid%150, k)
	m := &machine{name: fmt.Sprintf("stepfs-%d-%d", pid, k), cable: fmt.Sprintf("sf%d-%d", pid, k), server: net + "1"}
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	ip("netns", "add", m.name)
	t.Cleanup(func() { // its end of the cable goes with it, and so does ours
		if out, err := exec.Command("ip", "netns", "del", m.name).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	ip("link", "add", m.cable, "type", "veth", "peer", "name", "net0", "netns", m.name)
	ip("addr", "add", net+"1/30", "dev", m.cable)
	ip("link", "set", m.cable, "up")
	ip("-n", m.name, "addr", "add", net+"2/30", "dev", "net0")
	ip("-n", m.name, "link", "set", "net0", "up")
	return m
}

// cut has everything that it sends and is sent be lost, until it is mended.
func (m *machine) cut(t *testing.T)  { m.link(t, "down") }
func (m *machine) mend(t *testing.T) { m.link(t, "up") }

func (m *machine) link(t *testing.T, state string) {
	t.Helper()
	if out, err := exec.Command("ip", "link", "set", m.cable, state).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// within is a command that has another run there.
func (m *machine) within() []string { return []string{"nsenter", "--net=/run/netns/" + m.name} }

// env is the environment of who runs there.
func (m *machine) env(s *server) []string {
	port := s.url[strings.LastIndex(s.url, ":"):]
	return []string{"AWS_ACCESS_KEY_ID=" + accessKey, "AWS_SECRET_ACCESS_KEY=" + secretKey, "AWS_REGION=" + region, "AWS_ENDPOINT_URL_S3=http://" + m.server + port}
}

// TestTwoMachines: two machines and one bucket. One trains and publishes; its cable
// is cut in the middle of an upload, writes go on, and it catches up by itself once
// there is a network again. The other one sees each step when it is published, and
// not before, and has all of them when the first machine is gone for good.
func TestTwoMachines(t *testing.T) {
	srv := versitygwAt(t, "0.0.0.0")
	a, b := newMachine(t, 1), newMachine(t, 2)
	name := srv.bucket(t)
	url := "s3://" + name

	trains := root.Prepare(t, "--remote", url, "--upload-rate", "16M")
	trains.Wrap, trains.Env = a.within(), a.env(srv)
	must(t, trains.Start())
	save(t, trains, "one", 1<<20)
	wait(t, "one is published", func() bool { return uploadsOf(t, trains).Published == 1 })

	looks := root.Prepare(t, "--refresh", "1s")
	looks.Store, looks.Wrap, looks.Env = url, b.within(), b.env(srv)
	must(t, looks.Start())
	shows := func(step string) bool {
		got, err := os.ReadFile(filepath.Join(looks.Mnt, "snapshots", step, "data-"+step))
		if err == nil && !bytes.Equal(got, seeded(step, len(got))) {
			t.Errorf("%s is another one over there", step)
		}
		return err == nil && len(got) > 0
	}
	if !shows("one") {
		t.Error("one is published, and not over there")
	}

	save(t, trains, "two", 24<<20)
	wait(t, "two waits", func() bool { return uploadsOf(t, trains).Queue == 1 })
	time.Sleep(500 * time.Millisecond) // of the second and a half that it takes
	a.cut(t)
	f, err := os.Create(filepath.Join(trains.Mnt, "data-three"))
	must(t, err)
	_, err = f.Write(seeded("three", 2<<20))
	must(t, err)
	must(t, f.Sync())
	must(t, f.Close())
	must(t, os.Mkdir(filepath.Join(trains.Mnt, "snapshots/three"), 0o755))
	wait(t, "status says that two steps wait", func() bool {
		u := uploadsOf(t, trains)
		return u.Queue == 2 && u.AtRisk > 2<<20
	})
	time.Sleep(2 * time.Second)
	if u := uploadsOf(t, trains); u.Published != 1 || shows("two") || shows("three") {
		t.Errorf("without a network: %+v", u)
	}
	a.mend(t)
	begun := time.Now()
	wait(t, "it catches up", func() bool { u := uploadsOf(t, trains); return u.Published == 3 && u.AtRisk == 0 })
	t.Logf("caught up %v after the network was back", time.Since(begun))
	wait(t, "they are over there", func() bool { return shows("two") && shows("three") })

	must(t, trains.Kill())
	must(t, os.RemoveAll(trains.Store))
	to := t.TempDir()
	cmd := append(b.within(), root.Bin, "restore", url, "three", to)
	r, err := harness.RunEnv(b.env(srv), cmd[0], cmd[1:]...)
	if err != nil || r.Code != 0 {
		t.Fatalf("%v, exit code %d: %s", err, r.Code, r.Both())
	}
	for step, n := range map[string]int{"one": 1 << 20, "two": 24 << 20, "three": 2 << 20} {
		if got, err := os.ReadFile(filepath.Join(to, "data-"+step)); err != nil || !bytes.Equal(got, seeded(step, n)) {
			t.Errorf("data-%s: %v, %d bytes", step, err, len(got))
		}
	}
}
