package remote

import (
	"fmt"
	"strings"
)

// CheckKey says what is wrong with a key.
func CheckKey(op, key string) error {
	switch {
	case key == "":
		return Invalid(op, key, "the key is empty")
	case len(key) > MaxKey:
		return Invalid(op, fmt.Sprintf("%.32q…", key), "the key has %d bytes, more than %d", len(key), MaxKey)
	}
	for name := range strings.SplitSeq(key, "/") {
		switch {
		case name == "":
			return Invalid(op, key, "the key has an empty name")
		case name[0] == '.':
			return Invalid(op, key, "a name in the key begins with a dot")
		case len(name) > MaxName:
			return Invalid(op, key, "a name in the key has %d bytes, more than %d", len(name), MaxName)
		}
	}
	return checkBytes(op, key)
}

// IsKey says whether somebody who keeps to the contract can have put an object
// under a name.
func IsKey(name string) bool { return CheckKey("", name) == nil }

// CheckPrefix says what is wrong with the beginning of keys.
func CheckPrefix(op, prefix string) error {
	if len(prefix) > MaxKey || strings.HasPrefix(prefix, "/") || strings.Contains(prefix, "//") {
		return Invalid(op, prefix, "no key begins so")
	}
	return checkBytes(op, prefix)
}

func checkBytes(op, key string) error {
	for i := range len(key) {
		switch c := key[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '/', c == '.', c == '_', c == '-', c == '=':
		default:
			return Invalid(op, key, "byte %q is not for keys", c)
		}
	}
	return nil
}

// CheckPut says what is wrong with what is to be put.
func CheckPut(op, key string, c Content) error {
	if err := CheckKey(op, key); err != nil {
		return err
	}
	if c.Size < 0 || c.Size > MaxObject {
		return Invalid(op, key, "an object of %d bytes", c.Size)
	}
	return nil
}

// CheckReplace says what is wrong with a replacement.
func CheckReplace(op, key, version string, c Content) error {
	if err := CheckPut(op, key, c); err != nil {
		return err
	}
	if c.Size > MaxReplace {
		return Invalid(op, key, "a replacement of %d bytes, more than %d", c.Size, MaxReplace)
	}
	if version == "" {
		return Invalid(op, key, "no version to be replaced")
	}
	return nil
}

// CheckGet says what is wrong with a read.
func CheckGet(op, key string, off int64) error {
	if err := CheckKey(op, key); err != nil {
		return err
	}
	if off < 0 {
		return Invalid(op, key, "a read from %d", off)
	}
	return nil
}
