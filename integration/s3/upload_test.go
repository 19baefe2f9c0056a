package s3

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/pack"
	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/dir"
	"stepfs/integration/harness"
)

// place is a bucket that a store uploads to.
type place struct {
	url string
	env []string
	remote.Bucket
}

// places are all kinds that there are.
func places() map[string]func(t *testing.T) place {
	all := map[string]func(t *testing.T) place{"dir": func(t *testing.T) place {
		path := t.TempDir()
		b, err := dir.Open(vfs.Default, path)
		must(t, err)
		return place{"dir:" + path, nil, b}
	}}
	for name, run := range honest() {
		all[name] = func(t *testing.T) place {
			srv := run(t)
			name := srv.bucket(t)
			opt := srv.options(name)
			opt.Prefix = "runs/one"
			return place{"s3://" + name + "/runs/one?region=" + region,
				[]string{"AWS_ACCESS_KEY_ID=" + accessKey, "AWS_SECRET_ACCESS_KEY=" + secretKey, "AWS_ENDPOINT_URL_S3=" + srv.url}, open(t, opt)}
		}
	}
	return all
}

// published reads all refs, and holds each to what a ref promises.
func (p place) published(t *testing.T) (refs []*bucket.Ref) {
	t.Helper()
	for o, err := range p.List(t.Context(), bucket.RefsPrefix, "") {
		must(t, err)
		if o.Size == bucket.GoneSize {
			continue // it was forgotten, or never put
		}
		w, seq, _ := bucket.ParseNumbered(bucket.RefsPrefix, o.Key)
		f, err := bucket.DecodeRef(p.object(t, o.Key), w, seq)
		must(t, err)
		for _, k := range f.Packs {
			data := p.object(t, k.Key())
			if _, _, name, err := pack.Verify(bytes.NewReader(data), int64(len(data))); err != nil || name != k.Name {
				t.Errorf("%s names %s: %v", o.Key, k.Key(), err)
			}
		}
		refs = append(refs, f)
	}
	return refs
}

func (p place) object(t *testing.T, key string) []byte {
	t.Helper()
	b, _, err := remote.ReadAll(t.Context(), p, key, 1<<30)
	must(t, err)
	return b
}

// packs counts those that have arrived.
func (p place) packs(t *testing.T) (n int) {
	t.Helper()
	for _, err := range p.List(t.Context(), bucket.PacksPrefix, "") {
		must(t, err)
		n++
	}
	return n
}

// uploads is what status says of it.
type uploads struct {
	URL       string `json:"url"`
	Published int    `json:"published"`
	Queue     int    `json:"queue"`
	AtRisk    int64  `json:"at_risk_bytes"`
	Older     int64  `json:"older_key_bytes"`
	Error     string `json:"error"`
}

func uploadsOf(t *testing.T, d *harness.Daemon) uploads {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(d.Mnt, "snapshots/.status.json"))
	must(t, err)
	var s struct {
		Remote *uploads `json:"remote"`
	}
	must(t, json.Unmarshal(b, &s))
	if s.Remote == nil {
		t.Fatalf("the status says nothing of the bucket: %s", b)
	}
	return *s.Remote
}

// save seals a step of n random bytes.
func save(t *testing.T, d *harness.Daemon, name string, n int) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(d.Mnt, "data-"+name), seeded(name, n), 0o644))
	must(t, os.Mkdir(filepath.Join(d.Mnt, "snapshots", name), 0o755))
}

// seeded gives n random bytes, always the same ones under a name.
func seeded(name string, n int) []byte {
	data := make([]byte, n)
	rnd := rand.NewChaCha8([32]byte([]byte(fmt.Sprintf("%-32s", name))))
	_, _ = rnd.Read(data) // never fails
	return data
}

func wait(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come: ", what)
		}
	}
}

// TestUploadKilled: the daemon is killed in the middle of an upload, again and
// again. What is published is whole, each time; the next daemon, which is told of
// no bucket, goes on.
func TestUploadKilled(t *testing.T) {
	for name, open := range places() {
		t.Run(name, func(t *testing.T) {
			p := open(t)
			d := root.Prepare(t, "--remote", p.url, "--upload-rate", "24M", "--save-settings")
			d.Env = p.env
			must(t, d.Start())
			d.Args = nil
			for k := range 3 {
				save(t, d, fmt.Sprint("step", k), 12<<20)
				before := p.packs(t)
				wait(t, "a pack arrives", func() bool { return p.packs(t) > before })
				time.Sleep(time.Duration(k) * 100 * time.Millisecond)
				must(t, d.Kill())
				p.published(t)
				must(t, d.Start())
			}
			wait(t, "all is published", func() bool { u := uploadsOf(t, d); return u.Queue == 0 && u.Error == "" })
			u := uploadsOf(t, d)
			if refs := p.published(t); len(refs) != 3 || u.Published != 3 || u.AtRisk != 0 {
				t.Errorf("%d refs, and %+v", len(refs), u)
			}
			if u.URL != p.url {
				t.Errorf("it uploads to %s", u.URL)
			}
			out, err := root.Must("snapshots", d.Mnt, "--json")
			must(t, err)
			if strings.Count(out, `"published":`) != 3 {
				t.Errorf("the list does not say what is published: %s", out)
			}
			must(t, d.Stop())
		})
	}
}

// TestAttach: which store belongs to which bucket.
func TestAttach(t *testing.T) {
	p := places()["dir"](t)
	mount := func(args ...string) *harness.Daemon { return root.Prepare(t, args...) }
	refused := func(d *harness.Daemon, says ...string) {
		t.Helper()
		err := d.Start()
		for _, s := range says {
			if err == nil || !strings.Contains(err.Error(), s) {
				t.Errorf("%v does not say %q", err, s)
			}
		}
	}
	first := mount("--remote", p.url)
	must(t, first.Start())
	must(t, first.Stop())
	cfg, err := bucket.Read(t.Context(), p)
	must(t, err)

	// A new store takes over how chunks are cut and named.
	second := mount("--remote", p.url)
	must(t, second.Start())
	save(t, second, "a", 1000)
	wait(t, "its step is published", func() bool { return len(p.published(t)) == 1 })
	must(t, second.Stop())
	text, err := os.ReadFile(filepath.Join(second.Store, "config"))
	must(t, err)
	if !strings.Contains(string(text), fmt.Sprintf("%x", cfg.Key)) || !strings.Contains(string(text), fmt.Sprintf("%x", uint64(cfg.Polynomial))) {
		t.Errorf("%s\nis not of bucket %+v", text, cfg)
	}

	// One that has stored something by its own does so from then on, and keeps that.
	third := mount()
	must(t, third.Start())
	save(t, third, "c", 1000)
	_, err = root.Must("drain", third.Mnt)
	must(t, err)
	must(t, third.Stop())
	third.Args = []string{"--remote", p.url}
	must(t, third.Start())
	wait(t, "its step is published", func() bool { return len(p.published(t)) == 2 })
	_, err = root.Must("check", "--read-data", third.Mnt)
	must(t, err)
	must(t, third.Stop())

	// One that has stored nothing yet takes them over, with what is staged.
	fourth := mount()
	must(t, fourth.Start())
	must(t, os.WriteFile(filepath.Join(fourth.Mnt, "early"), seeded("early", 1<<20), 0o644))
	must(t, fourth.Stop())
	fourth.Args = []string{"--remote", p.url}
	must(t, fourth.Start())
	save(t, fourth, "d", 1000)
	wait(t, "its step is published", func() bool { return len(p.published(t)) == 3 })
	_, err = root.Must("check", "--read-data", fourth.Mnt)
	must(t, err)
	must(t, fourth.Stop())
	_, err = root.Must("restore", p.url, "d", t.TempDir())
	must(t, err)

	// A store keeps to its bucket: not another, not an empty place, not a place of
	// somebody else's.
	other := places()["dir"](t)
	elsewhere := mount("--remote", other.url)
	must(t, elsewhere.Start())
	must(t, elsewhere.Stop())
	first.Args = []string{"--remote", other.url}
	refused(first, "uploads to another bucket", cfg.ID)
	empty := places()["dir"](t)
	first.Args = []string{"--remote", empty.url}
	refused(first, "uploads to another bucket", "there is none here")
	for o, err := range empty.List(t.Context(), "", "") {
		t.Errorf("a place that was refused has %v, %v", o, err)
	}
	foreign := places()["dir"](t)
	must(t, foreign.Put(t.Context(), "photos/cat", remote.Bytes([]byte("x"))))
	refused(mount("--remote", foreign.url), "not stepfs", "photos/cat")
	refused(mount("--remote", "dir:/no/such/directory"), "/no/such/directory")

	// One that was attached can do without it for a while.
	first.Args = nil
	must(t, os.Rename(p.url[4:], p.url[4:]+"-away"))
	first.Args = []string{"--remote", p.url + "-mistyped"}
	must(t, first.Start())
	must(t, first.Stop())
	first.Args = nil
	must(t, first.Start()) // to where it was attached
	save(t, first, "b", 1000)
	wait(t, "it says why nothing is uploaded", func() bool {
		u := uploadsOf(t, first)
		return u.Error != "" && u.Queue == 1
	})
	must(t, first.Stop())
	must(t, os.Rename(p.url[4:]+"-away", p.url[4:]))
	must(t, first.Start())
	wait(t, "it is published", func() bool { return len(p.published(t)) == 4 })
	must(t, first.Stop())
}

// TestDrainRemote: what drain --remote has waited for is in the bucket, with a
// mount and without.
func TestDrainRemote(t *testing.T) {
	for name, open := range places() {
		t.Run(name, func(t *testing.T) {
			p := open(t)
			d := root.Prepare(t, "--remote", p.url)
			d.Env = p.env
			must(t, d.Start())
			drain := func(from string) string {
				t.Helper()
				r, err := harness.RunEnv(p.env, root.Bin, "drain", "--remote", from)
				if err != nil || r.Code != 0 {
					t.Errorf("%v, exit code %d: %s", err, r.Code, r.Both())
				}
				return r.Stdout
			}
			save(t, d, "one", 3<<20)
			if said := drain(d.Mnt); len(p.published(t)) != 1 || !strings.Contains(said, "published") {
				t.Errorf("%d refs: %s", len(p.published(t)), said)
			}
			lost := p.published(t)[0].Packs[0].Key()
			must(t, p.Delete(t.Context(), lost))
			r, err := harness.RunEnv(p.env, root.Bin, "drain", "--verify", d.Mnt)
			if err != nil || r.Code != 0 || !strings.Contains(r.Stdout, "1 were not there any more, and 1 of them were sent again") {
				t.Errorf("%v, exit code %d: %s", err, r.Code, r.Both())
			}
			p.published(t) // whole
			d.Args = []string{"--remote", ""}
			must(t, d.Stop())
			must(t, d.Start())
			save(t, d, "two", 3<<20)
			if r, err := harness.RunEnv(p.env, root.Bin, "drain", "--remote", d.Mnt); err != nil || r.Code == 0 || !strings.Contains(r.Stderr, "uploads to no bucket") {
				t.Errorf("a mount that does not upload: %v, exit code %d: %s", err, r.Code, r.Both())
			}
			must(t, d.Stop())
			drain(d.Store)
			if refs := p.published(t); len(refs) != 2 {
				t.Errorf("without a mount: %d refs", len(refs))
			}
		})
	}
}
