package bucket

import (
	"encoding/json"
	"fmt"
	"time"
)

// WriterInfo is what a writer says of itself, for people, and to be told from
// another under the same name.
type WriterInfo struct {
	Domain  uint32    `json:"-"`
	Writer  Writer    `json:"-"`
	Store   string    `json:"store"` // its ID
	Host    string    `json:"host"`
	Created time.Time `json:"created"` // when it was attached
}

// MaxWriter bounds what a reader is willing to load.
const MaxWriter = 64 << 10

// Encode gives the object. Body: JSON.
func (i *WriterInfo) Encode() []byte {
	b, err := json.Marshal(i)
	if err != nil {
		panic(err) // there is nothing in it that JSON can't say
	}
	return Seal(Head{Kind: KindWriter, Domain: i.Domain, Writer: i.Writer}, b)
}

// DecodeWriter reads the object that lies under WriterKey(w).
func DecodeWriter(b []byte, w Writer) (*WriterInfo, error) {
	h, body, err := Open(b, Head{Kind: KindWriter, Writer: w})
	if err != nil {
		return nil, err
	}
	i := &WriterInfo{Domain: h.Domain, Writer: w}
	if err := json.Unmarshal(body, i); err != nil {
		return nil, fmt.Errorf("%w: writer: %w", ErrFormat, err)
	}
	return i, nil
}
