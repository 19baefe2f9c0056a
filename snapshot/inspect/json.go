package inspect

import (
	"encoding/json"
	"strings"
)

const (
	// maxDepth of nested JSON. Python's own reader gives up at a thousand.
	maxDepth = 10_000
	// maxText of a string or number that is kept.
	maxText = 64 << 10
)

// checkJSON: one value, whole, and nothing behind it.
func checkJSON(s span) error {
	j := jsonReader{in: newStream(s)}
	for {
		if t, err := j.next(); err != nil || t.kind == jsonEnd {
			return err
		}
	}
}

// A jsonToken is one of { } [ ], or as the constants say.
type jsonToken struct {
	kind byte
	text string // of a string or number, if jsonReader.keep
}

const (
	jsonEnd    = 0
	jsonString = '"'
	jsonKey    = ':'
	jsonNumber = '0'
	jsonWord   = 'w' // true, false, null, and Python's NaN and Infinity
)

// A jsonReader reads JSON token by token, of any length. encoding/json can do
// that, too, but keeps a string whole however long it is, and refuses the NaN
// that Python's json.dump writes for a loss that has diverged.
type jsonReader struct {
	in      *stream
	keep    bool   // the text of strings and numbers is wanted
	stack   []byte // of { and [
	scratch []byte
	after   byte // what came last: 0 nothing, { [ , : or v for a value
}

// next gives the next token; jsonEnd once the value is complete and nothing
// follows.
func (j *jsonReader) next() (jsonToken, error) {
	for {
		c, err := j.space()
		if err != nil {
			return jsonToken{}, err
		}
		if len(j.stack) == 0 && j.after == 'v' {
			if c != jsonEnd {
				return jsonToken{}, flawf("JSON: something follows its value, at %d", j.in.at()-1)
			}
			return jsonToken{}, nil
		}
		switch c {
		case jsonEnd:
			return jsonToken{}, flaw("JSON: ends too early")
		case ',':
			if j.after != 'v' {
				return jsonToken{}, j.unexpected(c)
			}
			j.after = ','
			continue
		case '}', ']':
			return j.close(c)
		}
		if len(j.stack) > 0 && j.after == 'v' {
			return jsonToken{}, j.unexpected(c)
		}
		if j.inObject() && j.after != ':' {
			return j.key(c)
		}
		return j.value(c)
	}
}

func (j *jsonReader) inObject() bool {
	return len(j.stack) > 0 && j.stack[len(j.stack)-1] == '{'
}

func (j *jsonReader) unexpected(c byte) error {
	return flawf("JSON: unexpected %q at %d", c, j.in.at()-1)
}

// space gives the next byte that is not white space; jsonEnd at the end.
func (j *jsonReader) space() (byte, error) {
	for {
		if ok, err := j.in.fill(); err != nil || !ok {
			return jsonEnd, err
		}
		c := j.in.buf[j.in.i]
		j.in.i++
		switch c {
		case ' ', '\t', '\n', '\r':
		case 0:
			return c, flawf("JSON: a zero byte at %d", j.in.at()-1)
		default:
			return c, nil
		}
	}
}

func (j *jsonReader) close(c byte) (jsonToken, error) {
	open := byte('[')
	if c == '}' {
		open = '{'
	}
	last := len(j.stack) - 1
	if last < 0 || j.stack[last] != open || (j.after != 'v' && j.after != open) {
		return jsonToken{}, j.unexpected(c)
	}
	j.stack, j.after = j.stack[:last], 'v'
	return jsonToken{kind: c}, nil
}

func (j *jsonReader) key(c byte) (jsonToken, error) {
	if c != '"' {
		return jsonToken{}, j.unexpected(c)
	}
	text, err := j.text()
	if err != nil {
		return jsonToken{}, err
	}
	if c, err = j.space(); err != nil {
		return jsonToken{}, err
	} else if c != ':' {
		return jsonToken{}, flawf("JSON: no colon after a key, at %d", j.in.at())
	}
	j.after = ':'
	return jsonToken{jsonKey, text}, nil
}

func (j *jsonReader) value(c byte) (jsonToken, error) {
	switch c {
	case '{', '[':
		if len(j.stack) == maxDepth {
			return jsonToken{}, flawf("JSON: nested deeper than %d", maxDepth)
		}
		j.stack, j.after = append(j.stack, c), c
		return jsonToken{kind: c}, nil
	case '"':
		j.after = 'v'
		text, err := j.text()
		return jsonToken{jsonString, text}, err
	}
	j.after = 'v'
	word, err := j.word(c)
	if err != nil {
		return jsonToken{}, err
	}
	switch string(word) {
	case "true", "false", "null", "NaN", "Infinity", "-Infinity":
		return jsonToken{kind: jsonWord}, nil
	}
	// encoding/json knows what a number is; a word has no brackets or quotes.
	if !json.Valid(word) {
		return jsonToken{}, flawf("JSON: %.20q at %d is no value", word, j.in.at()-int64(len(word)))
	}
	t := jsonToken{kind: jsonNumber}
	if j.keep {
		t.text = string(word)
	}
	return t, nil
}

// word reads a number or a literal, up to what can't belong to one. It is good
// until the next one.
func (j *jsonReader) word(c byte) ([]byte, error) {
	j.scratch = append(j.scratch[:0], c)
	for {
		if ok, err := j.in.fill(); err != nil {
			return nil, err
		} else if !ok {
			return j.scratch, nil
		}
		c := j.in.buf[j.in.i]
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '.', c == '+', c == '-':
		default:
			return j.scratch, nil
		}
		if len(j.scratch) == maxText {
			return nil, flawf("JSON: a word of more than %d bytes at %d", maxText, j.in.at())
		}
		j.scratch = append(j.scratch, c)
		j.in.i++
	}
}

// text reads a string behind its opening quote. What is kept of one that is
// longer than maxText is not the whole.
func (j *jsonReader) text() (string, error) {
	raw := j.scratch[:0]
	defer func() { j.scratch = raw }()
	escapes := false
	for {
		if ok, err := j.in.fill(); err != nil {
			return "", err
		} else if !ok {
			return "", flaw("JSON: ends within a string")
		}
		b := j.in.buf[j.in.i:]
		n := 0
		for n < len(b) && b[n] >= ' ' && b[n] != '"' && b[n] != '\\' {
			n++
		}
		if j.keep {
			raw = append(raw, b[:min(n, maxText-len(raw))]...)
		}
		j.in.i += n
		if n == len(b) {
			continue
		}
		j.in.i++
		switch b[n] {
		case '"':
			return unescape(raw, escapes)
		case '\\':
			escapes = true
			seq, err := j.escape()
			if err != nil {
				return "", err
			}
			if j.keep && len(raw)+len(seq) <= maxText {
				raw = append(raw, seq...)
			}
		default:
			return "", flawf("JSON: byte %#x within a string, at %d", b[n], j.in.at()-1)
		}
	}
}

// escape reads an escape sequence behind its backslash and gives all of it.
func (j *jsonReader) escape() ([]byte, error) {
	c, err := j.in.byte()
	if err != nil {
		return nil, err
	}
	seq := []byte{'\\', c}
	if c != 'u' {
		if strings.IndexByte(`"\/bfnrt`, c) < 0 {
			return nil, flawf("JSON: bad escape at %d", j.in.at()-1)
		}
		return seq, nil
	}
	for range 4 {
		if c, err = j.in.byte(); err != nil {
			return nil, err
		}
		if strings.IndexByte("0123456789abcdefABCDEF", c) < 0 {
			return nil, flawf("JSON: bad escape at %d", j.in.at()-1)
		}
		seq = append(seq, c)
	}
	return seq, nil
}

func unescape(raw []byte, escapes bool) (string, error) {
	if !escapes || len(raw) == 0 {
		return string(raw), nil
	}
	var text string
	err := json.Unmarshal([]byte(`"`+string(raw)+`"`), &text)
	if err != nil {
		return "", flawf("JSON: a bad string: %v", err)
	}
	return text, nil
}

// skip reads the rest of the value that begins with t.
func (j *jsonReader) skip(t jsonToken) error {
	if t.kind != '{' && t.kind != '[' {
		return nil
	}
	for depth := len(j.stack); len(j.stack) >= depth; {
		if _, err := j.next(); err != nil {
			return err
		}
	}
	return nil
}

// object reads an object that begins with t, key by key. field reads the value.
func (j *jsonReader) object(t jsonToken, field func(key string) error) error {
	if t.kind != '{' {
		return flawf("JSON: an object is expected, before %d", j.in.at())
	}
	for {
		t, err := j.next()
		if err != nil {
			return err
		}
		if t.kind == '}' {
			return nil
		}
		if err := field(t.text); err != nil {
			return err
		}
	}
}
