package bucket

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/restic/chunker"
	"github.com/zeebo/blake3"
)

// FormatVersion of the bucket as a whole, readable whatever follows.
const FormatVersion = 1

// MaxConfig bounds a config that a reader is willing to load.
const MaxConfig = 64 << 10

const (
	configMagic    = "stepfs bucket "
	checksumPrefix = "blake3 "
)

// Config is what decides how chunks are cut and named, for all who share the
// bucket: the same as in the config of their stores.
type Config struct {
	ID         string    // 32 hex digits, drawn when the bucket was made
	Created    time.Time // when, by the clock of who made it
	Writer     Writer    // who made it
	Polynomial chunker.Pol
	Key        [32]byte
	Domain     uint32
}

type configJSON struct {
	ID         string    `json:"id"`
	Created    time.Time `json:"created"`
	Writer     string    `json:"writer"`
	Polynomial string    `json:"polynomial"`
	Key        string    `json:"key"`
	Domain     uint32    `json:"domain"`
}

// Same says whether the chunks of both are cut and named alike.
func (c *Config) Same(o *Config) bool {
	return c.Polynomial == o.Polynomial && c.Key == o.Key && c.Domain == o.Domain
}

// Encode gives the object: text, as the config of a store.
func (c *Config) Encode() []byte {
	j, err := json.MarshalIndent(configJSON{c.ID, c.Created.UTC(), c.Writer.String(),
		strconv.FormatUint(uint64(c.Polynomial), 16), hex.EncodeToString(c.Key[:]), c.Domain}, "", "  ")
	if err != nil {
		panic(err) // there is nothing in it that JSON can't say
	}
	b := fmt.Appendf(nil, "%s%d\n%s\n", configMagic, FormatVersion, j)
	sum := blake3.Sum256(b)
	return fmt.Appendf(b, "%s%x\n", checksumPrefix, sum)
}

// DecodeConfig reads it.
func DecodeConfig(b []byte) (*Config, error) {
	first, _, _ := bytes.Cut(b, []byte("\n"))
	version, ours := strings.CutPrefix(string(first), configMagic)
	if !ours {
		return nil, fmt.Errorf("%w: its config is not one of stepfs", ErrForeign)
	}
	if v, err := strconv.Atoi(version); err != nil || v < 1 {
		return nil, fmt.Errorf("%w: config of version %q", ErrFormat, version)
	} else if v > FormatVersion {
		return nil, fmt.Errorf("%w: bucket version %d, this program knows %d", ErrVersion, v, FormatVersion)
	}
	at := bytes.LastIndex(bytes.TrimSuffix(b, []byte("\n")), []byte("\n")) + 1
	sum := blake3.Sum256(b[:at])
	if string(b[at:]) != fmt.Sprintf("%s%x\n", checksumPrefix, sum) {
		return nil, fmt.Errorf("%w: the checksum of config", ErrFormat)
	}
	var j configJSON
	if err := json.Unmarshal(b[len(first):at], &j); err != nil {
		return nil, fmt.Errorf("%w: config: %w", ErrFormat, err)
	}
	c := &Config{ID: j.ID, Created: j.Created, Domain: j.Domain}
	pol, err := strconv.ParseUint(j.Polynomial, 16, 64)
	c.Polynomial = chunker.Pol(pol)
	key, kerr := hex.DecodeString(j.Key)
	w, ok := ParseWriter(j.Writer)
	if err != nil || kerr != nil || len(key) != len(c.Key) || !ok || len(j.ID) != 32 || !c.Polynomial.Irreducible() {
		return nil, fmt.Errorf("%w: a field of config", ErrFormat)
	}
	c.Key, c.Writer = [32]byte(key), w
	return c, nil
}
