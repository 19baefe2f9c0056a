package main

import (
	"fmt"
	"strconv"
	"strings"

	"stepfs/fs/stage"
)

// limitFlag is the flag of mount, and the store's setting.
const limitFlag = "store-limit"

const (
	// defaultLimit is how many percent of the disk a store takes that has no limit.
	defaultLimit = 90
	// minLimit is what journal, index and reserve take before the first file,
	// and a little for files.
	minLimit = 128 << 20
)

// storeLimit is how much of the disk a store may take: a size, a share of the
// disk, or, as zero, the default.
type storeLimit struct {
	size    byteSize
	percent float64
}

func (l *storeLimit) String() string {
	if l.percent > 0 {
		return strconv.FormatFloat(l.percent, 'g', -1, 64) + "%"
	}
	return l.size.String()
}

// Type names the flag's value in help texts.
func (l *storeLimit) Type() string { return "size" }

// Set parses a size or a percentage.
func (l *storeLimit) Set(s string) error {
	number, isShare := strings.CutSuffix(strings.TrimSpace(s), "%")
	if !isShare {
		var size byteSize
		if err := size.Set(s); err != nil {
			return fmt.Errorf("%q is neither a size like 800G nor a share of the disk like 75%%", s)
		}
		*l = storeLimit{size: size}
		return nil
	}
	v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if err != nil || !(v > 0 && v <= 100) {
		return fmt.Errorf("%q is no share of a disk like 75%%", s)
	}
	*l = storeLimit{percent: v}
	return nil
}

// of gives the limit on a disk of that size, in bytes.
func (l *storeLimit) of(disk int64) uint64 {
	switch {
	case l.percent > 0:
		return uint64(float64(disk) * l.percent / 100)
	case l.size > 0:
		return uint64(l.size)
	}
	return uint64(disk) / 100 * defaultLimit
}

// check refuses a limit that leaves nothing for files.
func (l *storeLimit) check(disk int64) error {
	if *l == (storeLimit{}) {
		return nil // a disk that is too small says so when it is full
	}
	if n := l.of(disk); n < minLimit {
		return fmt.Errorf("--%s %s is %s, and a store needs at least %s: for its journal and index, for what stays free for deletes and barriers (%s), and then for files; give it more, or leave the flag out for the disk less 10%%",
			limitFlag, l, humanBytes(int64(n)), humanBytes(minLimit), humanBytes(int64(stage.DefaultReserve(minLimit))))
	}
	return nil
}

// remarkOnLimit says when the store is over its limit already.
func (l *local) remarkOnLimit(say func(string)) error {
	u, err := l.parts.tree.Usage()
	if err != nil {
		return err
	}
	if most := u.Limit - u.Reserve; u.Used > most {
		say(overLimit(u, most))
	}
	return nil
}

func overLimit(u stage.Usage, most int64) string {
	s := fmt.Sprintf("the store takes %s, and its limit of %s, less the %s kept for deletes and barriers, leaves it %s: ",
		humanBytes(u.Used), humanBytes(u.Limit), humanBytes(u.Reserve), humanBytes(most))
	if u.Used-u.Hot <= most {
		return s + fmt.Sprintf("hot copies are evicted (%s can be), so that it has room", humanBytes(u.Hot))
	}
	return s + fmt.Sprintf("writes fail with \"no space left\" until it takes less. Nothing is lost; reading, deleting and syncing go on. Delete files that no snapshot holds, or mount with a --%s of at least %s",
		limitFlag, humanBytes(enough(u)))
}

// enough is a limit that leaves room for as much again as the reserve.
func enough(u stage.Usage) int64 {
	return u.Used + u.Unstored + 2*u.Reserve
}
