package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/pflag"

	"stepfs/chunkstore"
	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/limit"
	"stepfs/chunkstore/remote/location"
	"stepfs/chunkstore/remote/retry"
	"stepfs/internal/schema"
	"stepfs/internal/state"
	"stepfs/internal/storedir"
	"stepfs/snapshot"
)

const (
	// remoteFlag names the bucket that a store uploads to, publishName says which
	// steps.
	remoteFlag  = "remote"
	publishName = "publish"
	// durabilityFlag says when fsync returns.
	durabilityFlag = "durability"
	durableHere    = "local"
	durableRemote  = "remote"
	// remoteForgetFlag: retention reaches the bucket.
	remoteForgetFlag = "remote-forget"

	// A mount waits so long for the bucket: the first time, when it can't do
	// without, and later.
	attachPatience  = 30 * time.Second
	attachPatience2 = 5 * time.Second

	uploadRequests = 8 // at a time
	readRequests   = 16
	farPatience    = 10 * time.Second
)

// publishFlag is snapshot.Publish as a flag.
type publishFlag struct{ snapshot.Publish }

// Type names the flag's value in help texts.
func (p *publishFlag) Type() string { return "which" }

// Set reads all, complete or a number.
func (p *publishFlag) Set(s string) (err error) {
	p.Publish, err = snapshot.ParsePublish(s)
	return err
}

// openBucket opens the bucket of a mount: requests are made again for as long as
// retry.Options say, and after that by the publisher.
func (o *mountOptions) openBucket(ctx context.Context) (remote.Bucket, error) {
	l, err := location.Parse(o.remote)
	if err != nil {
		return nil, err
	}
	b, err := l.Open(ctx)
	if err != nil {
		return nil, err
	}
	b, _, err = location.Wrap(b, retry.Options{}, limit.Options{Requests: uploadRequests, Up: int64(o.uploadRate)})
	return b, err
}

// openReads opens the bucket at a URL for those who read what is only there: they
// are not kept waiting for long.
func openReads(url string) chunkstore.OpenBucket {
	return func(ctx context.Context) (remote.Bucket, error) {
		l, err := location.Parse(url)
		if err != nil {
			return nil, err
		}
		b, err := l.Open(ctx)
		if err != nil {
			return nil, err
		}
		b, _, err = location.Wrap(b, retry.Options{Within: farPatience}, limit.Options{Requests: readRequests})
		return b, err
	}
}

// takeOver has a store that is made cut and name chunks as those of the bucket
// that it will upload to, if there is one already.
func (o *mountOptions) takeOver(ctx context.Context, c *storedir.Config) (there bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, attachPatience)
	defer cancel()
	b, err := o.openBucket(ctx)
	if err != nil {
		return false, err
	}
	cfg, err := bucket.Read(ctx, b)
	if errors.Is(err, remote.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the config of the bucket: %w", err)
	}
	c.Polynomial, c.Key, c.Domain = cfg.Polynomial, cfg.Key, cfg.Domain
	return true, nil
}

// takeOverNaming has a store that comes to its bucket later do so from then on. If
// nothing is stored in it, no chunk has a name; else it keeps what names those that
// there are. A store that has a bucket has done so; one that was made again from packs
// knows no more of it than that some are there, and nowhere else: it takes no other.
// Of a bucket of another domain Attach says that it can't be joined.
func (o *mountOptions) takeOverNaming(dir *storedir.Dir, e *state.Engine) error {
	if !o.upload || o.remote == "" {
		return nil
	}
	if _, err := e.Get(schema.MetaKey(schema.MetaBucket)); !errors.Is(err, state.ErrNotFound) {
		return err
	}
	own := dir.Config()
	cfg := own
	there, err := o.takeOver(context.Background(), &cfg)
	if err != nil {
		return err
	}
	same := cfg.Polynomial == own.Polynomial && cfg.Key == own.Key && cfg.Domain == own.Domain
	if same && there {
		return nil
	}
	if away, err := hasAway(dir, e); away || err != nil {
		return cmp.Or(err, fmt.Errorf("%w: it has packs that are only in the bucket, and that is not at %s", chunkstore.ErrOtherBucket, o.remote))
	}
	if same {
		return nil // the place becomes a bucket, of the store's own naming
	}
	empty, err := storesNothing(dir)
	if err == nil && empty {
		empty, err = indexesNothing(e, schema.PrefixChunk, schema.PrefixPack, schema.PrefixChunkMap, schema.PrefixChunkRef, schema.PrefixChunkDead, schema.PrefixChunkBase)
	}
	switch {
	case err != nil:
		return err
	case empty:
		slog.Info("nothing is stored yet: chunks will be cut and named as in the bucket", "remote", o.remote)
		return dir.SaveNaming(cfg.Polynomial, cfg.Key, cfg.Domain)
	case cfg.Domain != own.Domain:
		return nil
	}
	slog.Info("the store joins a bucket of others: from now on chunks are cut and named as there", "remote", o.remote)
	return dir.Rename(storedir.Naming{Polynomial: cfg.Polynomial, Key: cfg.Key})
}

// olderKeys are those by which chunks were named before the store joined its bucket.
func olderKeys(cfg storedir.Config) (keys [][32]byte) {
	for _, n := range cfg.Older {
		keys = append(keys, n.Key)
	}
	return keys
}

// hasAway says whether a store has packs in a bucket, by its index or by stubs.
func hasAway(dir *storedir.Dir, e *state.Engine) (bool, error) {
	none, err := indexesNothing(e, schema.PrefixPackUpload)
	if err != nil || !none {
		return true, err
	}
	files, err := os.ReadDir(dir.Join(storedir.PacksDir))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return slices.ContainsFunc(files, func(f fs.DirEntry) bool { return filepath.Ext(f.Name()) == chunkstore.StubSuffix }), err
}

// indexesNothing says whether the index has no key that begins so.
func indexesNothing(e *state.Engine, prefixes ...byte) (bool, error) {
	for _, prefix := range prefixes {
		it, err := e.NewIter([]byte{prefix}, []byte{prefix + 1})
		if err != nil {
			return false, err
		}
		some := it.First()
		if err := errors.Join(it.Error(), it.Close()); err != nil || some {
			return false, err
		}
	}
	return true, nil
}

// storesNothing says whether no file might be a pack.
func storesNothing(dir *storedir.Dir) (bool, error) {
	all, err := os.ReadDir(dir.Path())
	if err != nil || slices.ContainsFunc(all, func(e fs.DirEntry) bool { return storedir.IsAside(e.Name()) }) {
		return false, err // a repair may have moved packs there, which this key alone reads
	}
	files, err := os.ReadDir(dir.Join(storedir.PacksDir))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return len(files) == 0, err
}

// openUploads attaches the store to its bucket. One that was attached before can
// do without it for now: what can't be reached is tried again in the background.
func openUploads(chunks *chunkstore.Store, storeID string, o *mountOptions) (*chunkstore.Uploads, error) {
	if o.durability == durableRemote && o.remote == "" {
		return nil, fmt.Errorf("--%s=%s needs a bucket: give --%s URL, or --%s=%s", durabilityFlag, durableRemote, remoteFlag, durabilityFlag, durableHere)
	}
	if !o.upload || o.remote == "" {
		return nil, nil
	}
	at, err := chunks.Attachment()
	if err != nil {
		return nil, err
	}
	patience := attachPatience
	if at != nil {
		patience = attachPatience2
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	up := chunks.Uploads(o.openBucket, storeID)
	err = up.Attach(ctx)
	if err == nil || at == nil || isMisplaced(err) {
		return up, err
	}
	slog.Warn("the bucket can't be reached; nothing is uploaded until it can", "error", err)
	return up, nil
}

// isMisplaced says whether the store has nothing to do with the bucket.
func isMisplaced(err error) bool {
	for _, kind := range []error{bucket.ErrOther, bucket.ErrForeign, bucket.ErrVersion, chunkstore.ErrOtherBucket} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// keepRemote has the next mount upload the same to the same bucket, once that was
// reached.
func (d *daemon) keepRemote(flags *pflag.FlagSet) error {
	up := d.store.parts.uploads
	if up == nil {
		return nil
	}
	if _, reached := up.Writer(); !reached {
		return nil
	}
	saved := d.dir.Config().Settings
	all := map[string]string{}
	maps.Copy(all, saved)
	all[remoteFlag] = d.opts.remote
	if flags.Changed(publishName) {
		all[publishName] = d.opts.publish.String()
	}
	if flags.Changed(durabilityFlag) {
		all[durabilityFlag] = d.opts.durability
	}
	if flags.Changed(remoteForgetFlag) {
		all[remoteForgetFlag] = strconv.FormatBool(d.opts.remoteForget)
	}
	if maps.Equal(all, saved) {
		return nil
	}
	return d.dir.SaveSettings(all)
}

// RemoteInfo says how far publishing is.
type RemoteInfo struct {
	URL       string    `json:"url"`
	Bucket    string    `json:"bucket,omitempty"` // its ID; empty: the store was never attached
	Writer    string    `json:"writer,omitempty"` // this store's name there
	Running   bool      `json:"running"`          // a daemon uploads
	Reached   bool      `json:"reached"`          // since it was started
	Publish   string    `json:"publish"`
	Waited    bool      `json:"durable"`   // fsync returns once the bucket has it
	Published int       `json:"published"` // steps, of those that are kept
	Queue     int       `json:"queue"`     // steps that have yet to be
	Oldest    time.Time `json:"oldest,omitzero"`
	Age       int64     `json:"oldest_seconds,omitempty"`
	AtRisk    int64     `json:"at_risk_bytes"`             // of steps that are not published, and what is not stored
	Older     int64     `json:"older_key_bytes,omitempty"` // named by older keys, from before the store joined; what is published is stored anew
	Packs     int64     `json:"uploaded_packs"`
	Bytes     int64     `json:"uploaded_bytes"` // since the start
	Last      time.Time `json:"last,omitzero"`  // when a step was published, since the start
	Forget    int       `json:"to_forget"`      // snapshots that the bucket has yet to forget
	ForgetErr string    `json:"forget_error,omitempty"`
	Error     string    `json:"error,omitempty"`
	ErrorAt   time.Time `json:"error_at,omitzero"`
	Next      time.Time `json:"next_attempt,omitzero"`
}

// describeRemote says how far publishing is; nothing of a store without a bucket.
func (l *local) describeRemote(s *Status) error {
	at, err := l.parts.chunks.Attachment()
	if err != nil {
		return err
	}
	r, err := l.parts.manager.PublishReport()
	if err != nil || at == nil && !r.On {
		return err
	}
	i := &RemoteInfo{URL: l.dir.Config().Settings[remoteFlag], Running: r.On, Reached: r.Attached, Publish: r.Publish.String(), Waited: r.Durable,
		Published: r.Published, Queue: r.Queue, Oldest: r.Oldest.UTC(), AtRisk: r.AtRisk + s.Unstored,
		Packs: r.Packs, Bytes: r.Bytes, Last: r.Last.UTC()}
	if at != nil {
		i.Bucket, i.Writer = fmt.Sprintf("%x", at.Bucket), bucket.Writer(at.Writer).String()
	}
	if r.Queue > 0 {
		i.Age = int64(time.Since(r.Oldest).Seconds())
	}
	i.Older = l.parts.chunks.OlderBytes()
	if i.Forget = r.Forget; r.ForgetErr != nil {
		i.ForgetErr = r.ForgetErr.Error()
	}
	if r.Err != nil {
		i.Error, i.ErrorAt, i.Next = r.Err.Error(), r.ErrAt.UTC(), r.Next.UTC()
	}
	s.Remote = i
	return nil
}

func (i *RemoteInfo) print(w io.Writer) {
	row := func(name, format string, args ...any) { fmt.Fprintf(w, name+"\t"+format+"\n", args...) }
	if !i.Running {
		row("uploads", "no; it belongs to bucket %s as %s", i.Bucket, i.Writer)
		return
	}
	row("uploads", "to %s, %d steps are published (%s)", i.URL, i.Published, i.Publish)
	if i.Waited {
		row("fsync", "returns once the bucket has what was synced")
	}
	if i.Queue > 0 {
		row("to be published", "%d steps, the oldest sealed %s ago", i.Queue, humanAge(time.Duration(i.Age)*time.Second))
	}
	if i.Forget > 0 {
		why := ""
		if i.ForgetErr != "" {
			why = ": " + i.ForgetErr
		}
		row("to be forgotten", "%d snapshots, in the bucket%s", i.Forget, why)
	}
	if i.Older > 0 {
		row("older key", "%s are named by it, from before the store joined; what is published of that is stored anew", humanBytes(i.Older))
	}
	row("at risk", "%s are not in the bucket", humanBytes(i.AtRisk))
	if i.Error != "" {
		row("UPLOAD FAILS", "%s (%s, again %s)", i.Error, humanTime(i.ErrorAt), humanTime(i.Next))
	}
}
