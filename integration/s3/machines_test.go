package s3

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"stepfs/chunkstore/bucket"
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
func (m *machine) env(url string) []string {
	port := url[strings.LastIndex(url, ":"):]
	return []string{"AWS_ACCESS_KEY_ID=" + accessKey, "AWS_SECRET_ACCESS_KEY=" + secretKey, "AWS_REGION=" + region, "AWS_ENDPOINT_URL_S3=http://" + m.server + port}
}

// relay is where a machine finds a server. It notes what becomes of packs.
type relay struct {
	proxy
	*httptest.Server
	mu      sync.Mutex
	begun   map[string]int
	arrived map[string]bool
	again   []string      // that were sent though they had arrived
	one     bool          // one more may arrive,
	hold    chan struct{} // and the others hang until this is closed; nil: they do not
}

// holdAllButOne has one more pack arrive, and all others hang until the connections
// are cut.
func (r *relay) holdAllButOne() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.one, r.hold = true, make(chan struct{})
}

// cutAll cuts all connections.
func (r *relay) cutAll() {
	r.mu.Lock()
	held := r.hold
	r.hold = nil
	r.mu.Unlock()
	close(held) // CloseClientConnections waits for who is being served
	r.CloseClientConnections()
}

func newRelay(t *testing.T, s *server) *relay {
	t.Helper()
	r := &relay{begun: map[string]int{}, arrived: map[string]bool{}}
	r.proxy = proxy{server: s, decide: func(*http.Request) fault { return none }, closed: make(chan struct{})}
	l, err := net.Listen("tcp", "0.0.0.0:0")
	must(t, err)
	r.Server = &httptest.Server{Listener: l, Config: &http.Server{Handler: r}}
	r.Start()
	t.Cleanup(r.Close)
	return r
}

// answered is the status of an answer.
type answered struct {
	http.ResponseWriter
	status int
}

func (a *answered) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

func (r *relay) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	path, a := req.URL.Path, &answered{ResponseWriter: w}
	if req.Method != http.MethodPut || !strings.Contains(path, "/"+bucket.PacksPrefix) {
		r.proxy.ServeHTTP(w, req)
		return
	}
	r.mu.Lock()
	if r.begun[path]++; r.arrived[path] {
		r.again = append(r.again, path)
	}
	held := r.hold
	if r.one {
		r.one, held = false, nil
	}
	r.mu.Unlock()
	if held != nil {
		<-held
		cut()
	}
	r.proxy.ServeHTTP(a, req)
	if a.status == http.StatusOK {
		r.mu.Lock()
		r.arrived[path] = true
		r.mu.Unlock()
	}
}

// packs says how many have been begun, of these begun again, and arrived.
func (r *relay) packs() (begun, broken, arrived int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.begun {
		if n > 1 {
			broken++
		}
	}
	return len(r.begun), broken, len(r.arrived)
}

// TestTwoMachines: two machines and one bucket. One trains and publishes; its cable
// is cut in the middle of an upload, and its connections with it. Writes go on, and
// it catches up by itself once there is a network again, without sending again what
// had arrived. The other one sees each step when it is published, and
// not before, and has all of them when the first machine is gone for good.
func TestTwoMachines(t *testing.T) {
	srv := versitygwAt(t, "0.0.0.0")
	a, b := newMachine(t, 1), newMachine(t, 2)
	name := srv.bucket(t)
	url := "s3://" + name

	trains := root.Prepare(t, "--remote", url, "--upload-rate", "16M")
	through := newRelay(t, srv)
	trains.Wrap, trains.Env = a.within(), a.env(through.URL)
	must(t, trains.Start())
	save(t, trains, "one", 1<<20)
	wait(t, "one is published", func() bool { return uploadsOf(t, trains).Published == 1 })

	looks := root.Prepare(t, "--refresh", "1s")
	looks.Store, looks.Wrap, looks.Env = url, b.within(), b.env(srv.url)
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

	_, _, before := through.packs()
	through.holdAllButOne()
	save(t, trains, "two", 24<<20)
	wait(t, "one pack of two has arrived, and another has not", func() bool {
		begun, _, arrived := through.packs()
		return arrived > before && begun > arrived
	})
	a.cut(t)
	through.cutAll()
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
	if _, broken, _ := through.packs(); broken == 0 || len(through.again) > 0 {
		t.Errorf("%d packs were broken off; sent again though they had arrived: %v", broken, through.again)
	}
	wait(t, "they are over there", func() bool { return shows("two") && shows("three") })

	must(t, trains.Kill())
	must(t, os.RemoveAll(trains.Store))
	to := t.TempDir()
	cmd := append(b.within(), root.Bin, "restore", url, "three", to)
	r, err := harness.RunEnv(b.env(srv.url), cmd[0], cmd[1:]...)
	if err != nil || r.Code != 0 {
		t.Fatalf("%v, exit code %d: %s", err, r.Code, r.Both())
	}
	for step, n := range map[string]int{"one": 1 << 20, "two": 24 << 20, "three": 2 << 20} {
		if got, err := os.ReadFile(filepath.Join(to, "data-"+step)); err != nil || !bytes.Equal(got, seeded(step, n)) {
			t.Errorf("data-%s: %v, %d bytes", step, err, len(got))
		}
	}
}
