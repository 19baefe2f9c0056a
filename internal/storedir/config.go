package storedir

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/restic/chunker"
	"github.com/zeebo/blake3"
)

// FormatVersion is the store format that this program writes, and the newest
// that it reads. Version 2 counts who needs a chunk and lists what expired
// snapshots leave; a store of version 1 becomes one when it is opened, and the
// packs that it has by then are kept whole, since nobody counted for them.
// Version 3 knows more of a step and of a file that was made longer, version 4
// what is excluded from snapshots, version 5 chunks that are planes of floats or
// made from others, version 6 those that are made from a part of another,
// version 7 packs that are only in the bucket, version 8 chunks that are named by
// an older key than others.
const FormatVersion = 8

// The config file is text, for a person with nothing but a pager:
//
//	stepfs store 2            the format version, readable whatever follows
//	{ … }                     the fields of Config as JSON
//	blake3 <64 hex digits>    of every byte before this line
//
// It is written to a temporary file, synced, renamed, and the directory
// synced. config.bak is a second copy, brought up to date at every Open: losing
// the polynomial costs deduplication, losing the key costs the store.
const (
	configMagic    = "stepfs store "
	checksumPrefix = "blake3 "
	maxConfigSize  = 1 << 20
)

// Config is what was decided when the store was made, and the defaults that its owner set since.
type Config struct {
	ID         string            // 32 hex digits, drawn at creation
	Format     int               // FormatVersion of the writer
	Created    time.Time         // when
	Polynomial chunker.Pol       // where restic/chunker cuts; drawn so that cut points leak nothing
	Key        [32]byte          // of the keyed BLAKE3 that names chunks
	Domain     uint32            // the one domain of chunk names so far
	Older      []Naming          // what the store cut and named chunks by before it joined a bucket, the first first
	Settings   map[string]string // flag name to value; flags and environment win over these
}

// Naming decides where content is cut, and how its chunks are named.
type Naming struct {
	Polynomial chunker.Pol
	Key        [32]byte
}

// MaxOlder is how many older namings a store may have.
const MaxOlder = 15

// configJSON is Config as it stands in the file.
type configJSON struct {
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
	namingJSON
	Domain   uint32            `json:"domain"`
	Older    []namingJSON      `json:"older,omitempty"`
	Settings map[string]string `json:"settings,omitempty"`
}

type namingJSON struct {
	Polynomial string `json:"polynomial"`
	Key        string `json:"key"`
}

func (n Naming) encode() namingJSON {
	return namingJSON{Polynomial: fmt.Sprintf("%#x", uint64(n.Polynomial)), Key: hex.EncodeToString(n.Key[:])}
}

func (j namingJSON) decode() (n Naming, err error) {
	pol, err := strconv.ParseUint(j.Polynomial, 0, 64)
	if n.Polynomial = chunker.Pol(pol); err != nil || !n.Polynomial.Irreducible() {
		return n, fmt.Errorf("%w: chunker polynomial %q", ErrCorruptConfig, j.Polynomial)
	}
	key, err := hex.DecodeString(j.Key)
	if err != nil || len(key) != len(n.Key) {
		return n, fmt.Errorf("%w: chunk name key", ErrCorruptConfig) // the key itself is nobody's business
	}
	copy(n.Key[:], key)
	return n, nil
}

// naming is what content is cut and named by from now on.
func (c Config) naming() Naming { return Naming{c.Polynomial, c.Key} }

func newConfig() (Config, error) {
	pol, err := chunker.RandomPolynomial()
	if err != nil {
		return Config{}, fmt.Errorf("drawing a chunker polynomial: %w", err)
	}
	cfg := Config{Format: FormatVersion, Created: time.Now().UTC().Truncate(time.Second), Polynomial: pol}
	var id [16]byte
	rand.Read(id[:]) // never fails: see crypto/rand
	rand.Read(cfg.Key[:])
	cfg.ID = hex.EncodeToString(id[:])
	return cfg, nil
}

// encode gives the bytes of the config file.
func (c Config) encode() ([]byte, error) {
	j := configJSON{ID: c.ID, Created: c.Created, namingJSON: c.naming().encode(), Domain: c.Domain, Settings: c.Settings}
	for _, n := range c.Older {
		j.Older = append(j.Older, n.encode())
	}
	body, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the store config: %w", err)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s%d\n%s\n", configMagic, c.Format, body)
	sum := blake3.Sum256(b.Bytes())
	fmt.Fprintf(&b, "%s%x\n", checksumPrefix, sum)
	return b.Bytes(), nil
}

// decodeConfig checks everything before it believes anything, except the
// version: a newer format may keep its checksum elsewhere.
func decodeConfig(data []byte) (Config, error) {
	first, rest, ok := strings.Cut(string(data), "\n")
	number, isOurs := strings.CutPrefix(first, configMagic)
	if !ok || !isOurs {
		return Config{}, fmt.Errorf("%w: its first line is not %q", ErrCorruptConfig, configMagic+"N")
	}
	version, err := strconv.Atoi(number)
	if err != nil || version < 1 {
		return Config{}, fmt.Errorf("%w: format version %q", ErrCorruptConfig, number)
	}
	if version > FormatVersion {
		return Config{}, fmt.Errorf("%w: %d, and this stepfs knows up to %d; use the stepfs that wrote it or a newer one",
			ErrNewerFormat, version, FormatVersion)
	}
	at := strings.LastIndex(rest, "\n"+checksumPrefix)
	if at < 0 {
		return Config{}, fmt.Errorf("%w: its checksum is missing", ErrCorruptConfig)
	}
	body, sum := rest[:at+1], rest[at+1:]
	want := blake3.Sum256([]byte(first + "\n" + body))
	if sum != fmt.Sprintf("%s%x\n", checksumPrefix, want) {
		return Config{}, fmt.Errorf("%w: its checksum does not match", ErrCorruptConfig)
	}
	return decodeBody(version, []byte(body))
}

func decodeBody(version int, body []byte) (Config, error) {
	var j configJSON
	if err := json.Unmarshal(body, &j); err != nil {
		return Config{}, fmt.Errorf("%w: %w", ErrCorruptConfig, err)
	}
	c := Config{ID: j.ID, Format: version, Created: j.Created, Domain: j.Domain, Settings: j.Settings}
	if id, err := hex.DecodeString(j.ID); err != nil || len(id) != 16 {
		return Config{}, fmt.Errorf("%w: store id %q", ErrCorruptConfig, j.ID)
	}
	now, err := j.namingJSON.decode()
	if err != nil {
		return Config{}, err
	}
	c.Polynomial, c.Key = now.Polynomial, now.Key
	if len(j.Older) > MaxOlder {
		return Config{}, fmt.Errorf("%w: %d older keys", ErrCorruptConfig, len(j.Older))
	}
	for _, o := range j.Older {
		n, err := o.decode()
		if err != nil {
			return Config{}, err
		}
		c.Older = append(c.Older, n)
	}
	return c, nil
}

// readConfig reads the config and, when it cannot be used, says what can be done about it.
func readConfig(dir string) (Config, error) {
	path, backup := filepath.Join(dir, ConfigName), filepath.Join(dir, backupName)
	cfg, err := readConfigFile(path)
	if err == nil || errors.Is(err, ErrNewerFormat) {
		return cfg, err
	}
	missing := errors.Is(err, fs.ErrNotExist)
	if !missing && !errors.Is(err, ErrCorruptConfig) {
		return Config{}, err
	}
	_, backupErr := readConfigFile(backup)
	switch {
	case backupErr == nil && missing:
		return Config{}, fmt.Errorf("%s: %w: the file is missing, its second copy is whole; put it back with: cp -p %s %s",
			path, ErrCorruptConfig, backup, path)
	case backupErr == nil:
		return Config{}, fmt.Errorf("%w; its second copy is whole; put it back with: cp -p %s %s", err, backup, path)
	case missing && errors.Is(backupErr, fs.ErrNotExist):
		return Config{}, err
	}
	return Config{}, fmt.Errorf("%w; put %s back from a backup (it holds the key that chunks are named with)", err, path)
}

func readConfigFile(path string) (Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return Config{}, fmt.Errorf("reading the store config: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfigSize+1))
	if err != nil {
		return Config{}, fmt.Errorf("reading the store config: %w", err)
	}
	if len(data) > maxConfigSize {
		return Config{}, fmt.Errorf("%s: %w: it is over %d bytes", path, ErrCorruptConfig, maxConfigSize)
	}
	cfg, err := decodeConfig(data)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return cfg, nil
}

// writeConfig writes both copies. The config itself comes first: a store that
// has only the second copy has lost something, and is refused.
func writeConfig(dir string, c Config) error {
	data, err := c.encode()
	if err != nil {
		return err
	}
	if err := writeFileAtomic(dir, ConfigName, data); err != nil {
		return err
	}
	return writeFileAtomic(dir, backupName, data)
}

// refreshBackup makes the second copy equal to the config that was just read.
func refreshBackup(dir string, c Config) error {
	want, err := c.encode()
	if err != nil {
		return err
	}
	if have, err := os.ReadFile(filepath.Join(dir, backupName)); err == nil && bytes.Equal(have, want) {
		return nil
	}
	return writeFileAtomic(dir, backupName, want)
}

// hasMagic says whether the file begins as our config does.
func hasMagic(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist) // unreadable: let readConfig say why
	}
	defer f.Close()
	head := make([]byte, len(configMagic))
	_, err = io.ReadFull(f, head)
	return err == nil && string(head) == configMagic
}
