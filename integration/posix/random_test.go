package posix

import (
	"fmt"
	"maps"
	"slices"

	"pgregory.net/rapid"
)

// Arguments are drawn without regard to what is there: many calls fail, which
// is as good to compare, and a script that is shortened stays what it was. A
// few names and descriptors make calls meet.

// pick draws each word as often as any other. (What rapid offers favours what
// comes first, which is right for numbers.)
func pick(words ...string) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		k := 0
		for range 12 {
			k *= 2
			if coin.Draw(t, "coin") {
				k++
			}
		}
		return words[k%len(words)]
	})
}

var coin = rapid.Bool()

// weighted draws from groups of values, each group as often as it is heavy.
func weighted(groups ...[]string) *rapid.Generator[string] {
	var all []string
	most := 1
	for _, g := range groups {
		most = max(most, len(g))
	}
	for _, g := range groups {
		for i := range most {
			all = append(all, g[i%len(g)])
		}
	}
	return pick(all...)
}

var (
	fileNames = words("a b d/a d/b d/e/a")
	dirNames  = words("d e d/e . d/..")
	newNames  = words("c d/c e/c d/e/c e/f") // what most scripts make later
	oddNames  = words("l d/l l a/ a/b d/ @255 @256 d/@255 @@4095 @@4096 nothing d/nothing \xff\xfe ..../x")
	sizes     = words("0 1 10 100 1000 4096 5000 8192 20000 65536 70000")
	offsets   = words("0 1 100 4095 4096 5000 8192 12288 65535 65536 100000 1048570 1048576 3000000")
)

// argument types: see kinds. An offset of type anyoff may be beyond the largest
// file of either, which is told where a file would grow and nowhere else.
var argument = map[string]*rapid.Generator[string]{
	"slot":  pick("f0", "f1", "f2"),
	"file":  weighted(fileNames, fileNames, fileNames, fileNames, newNames, dirNames, oddNames),
	"dir":   weighted(dirNames, dirNames, dirNames, dirNames, fileNames, oddNames),
	"new":   weighted(newNames, newNames, newNames, fileNames, dirNames, oddNames),
	"any":   weighted(newNames, fileNames, fileNames, fileNames, fileNames, dirNames, dirNames, oddNames),
	"link":  weighted(words("l d/l"), newNames, fileNames),
	"fresh": pick("w1", "d/w2"), // nothing else makes them
	"name":  pick("a", "b", "c", "x1", "x2", "x3"),
	"flags": weighted(
		words("O_RDONLY O_WRONLY O_RDWR O_RDWR|O_CREAT O_WRONLY|O_CREAT O_RDWR|O_CREAT|O_TRUNC O_WRONLY|O_CREAT|O_TRUNC O_RDWR|O_CREAT|O_APPEND O_WRONLY|O_CREAT|O_APPEND"),
		words("O_RDWR|O_CREAT O_WRONLY|O_CREAT O_RDWR|O_CREAT|O_EXCL O_WRONLY|O_CREAT|O_EXCL O_RDWR|O_TRUNC O_RDONLY|O_CREAT O_RDONLY|O_TRUNC O_RDONLY|O_CREAT|O_EXCL O_WRONLY|O_APPEND"),
		words("O_RDWR|O_CREAT|O_DIRECT O_WRONLY|O_CREAT|O_DIRECT O_RDONLY|O_DIRECT O_RDWR|O_CREAT|O_SYNC O_WRONLY|O_CREAT|O_SYNC O_RDWR|O_CREAT|O_DSYNC O_WRONLY|O_CREAT|O_DSYNC O_RDWR|O_CREAT|O_DIRECT|O_SYNC O_WRONLY|O_DIRECT|O_DSYNC|O_CREAT O_WRONLY|O_CREAT|O_APPEND|O_DSYNC O_RDWR|O_CREAT|O_APPEND|O_DIRECT"),
		words("O_RDONLY|O_NOFOLLOW O_RDWR|O_NOFOLLOW|O_CREAT O_RDONLY|O_DIRECTORY O_RDONLY|O_PATH O_PATH|O_NOFOLLOW O_PATH|O_DIRECTORY O_RDWR|O_DIRECTORY O_RDONLY|O_CREAT|O_DIRECTORY O_RDONLY|O_NOATIME"),
	),
	"tmpflags": weighted(words("O_RDWR O_WRONLY"), words("O_RDWR O_RDWR|O_EXCL O_RDONLY O_RDWR|O_APPEND")),
	// No set-group-id without group execution: it means nothing, and when it goes
	// is told by groups of the caller that a FUSE server does not see.
	"mode":        weighted(words("0644 0666 0600 0777 0755"), words("0644 0666 0 0400 0222 04755 02755 06777 01777 0444 06711")),
	"dirmode":     weighted(words("0755 0777 0777 0700"), words("0755 0777 01777 02777 0500 03777 0 0311")),
	"len":         weighted(sizes, sizes, sizes, sizes, sizes, words("262144 1048576 1100000")),
	"off":         weighted(offsets, offsets, offsets, offsets, words("-1 1099511627776 4398046511104")),
	"near":        pick("0", "0", "1", "4096", "5000", "65536"),
	"anyoff":      weighted(offsets, offsets, offsets, offsets, words("-1 1099511627776 1152921504606846976 9223372036854775807")),
	"seed":        rapid.Map(rapid.IntRange(0, 99), func(n int) string { return fmt.Sprint(n) }),
	"whence":      pick("set", "set", "cur", "end", "data", "hole", "data", "hole"),
	"famode":      weighted(words("allocate keep punch zero zerokeep"), words("allocate punch zero punchgrow")),
	"badmode":     pick("collapse", "insert"),
	"renameflags": pick("-", "-", "-", "-", "noreplace", "exchange", "exchange", "both"),
	"followlink":  pick("-", "-", "follow"),
	"target":      weighted(fileNames, dirNames, words("l nowhere d/l @255 . x/y/z")),
	"type":        pick("file", "file", "fifo", "socket", "char", "block"),
	"id":          pick("-1", "0", "1001", "1002", "3000", "3000", "1001", "4242"),
	"time":        pick("now", "omit", "0.0", "1000.5", "123456789.999999999", "86400.1", "-5.7", "5000000000.0"),
	"nofollow":    pick("-", "nofollow"),
	"xattr":       weighted(words("user.a user.b user.c"), words("user.a user.b trusted.a security.a user.@255 user. system.x bogus user.@250")),
	"kept":        pick("user.a", "user.a", "user.b", "security.a", "trusted.a", "user.c", "user."),
	"room":        pick("65536", "300", "65537", "0", "10"),
	"size":        weighted(words("0 1 20 100"), words("20 100 300"), words("0 1 20 100"), words("300 65537") /* ext4 has room for one block */),
	"xflags":      pick("-", "-", "-", "-", "-", "create", "replace", "both"),
	"access":      pick("0", "1", "2", "4", "6", "7"),
	"flock":       pick("sh", "ex", "un"),
	"lock":        pick("r", "w", "w", "u", "get"),
	"lockoff":     pick("0", "0", "10", "100"),
	"locklen":     pick("0", "5", "20", "200"),
	"mask":        pick("022", "0", "077", "027", "022"),
}

// script is a script that was drawn; it is printed when it is short.
type script []op

// GoString is what rapid prints.
func (s script) GoString() string { return fmt.Sprintf("%d operations", len(s)) }

// beginning is what each script begins with: names that calls can meet.
const beginning = `
root mkdir d 0777
root chmod d 0777
root mkdir e 0777
root chmod e 01777
bob mkdir d/e 0755
ann open f0 a O_RDWR|O_CREAT 0666
ann write f0 20000 1
root open f1 b O_RDWR|O_CREAT 0666
root chmod b 0666
root write f1 5000 2
bob open f2 d/a O_WRONLY|O_CREAT 0644
bob write f2 70000 3
ann2 open f0 d/a O_RDONLY 0
ann2 open f1 a O_RDWR 0
root open f0 a O_RDWR 0
bob open f1 b O_RDWR 0
root symlink d/a l
root setxattr a user.a 20 1 -
root setxattr d/a user.b 100 2 -
root setxattr b security.a 100 2 -
root setxattr d user.a 10 3 -
root mknod d/b file 0666
`

// scriptOf draws n operations.
func scriptOf(n int) *rapid.Generator[script] {
	names := slices.Sorted(maps.Keys(kinds))
	var drawn []string
	for _, name := range names {
		for range kinds[name].weight {
			drawn = append(drawn, name)
		}
	}
	kindGen := pick(drawn...)
	who := pick("root", "root", "ann", "ann", "bob", "ann2")
	one := rapid.Custom(func(t *rapid.T) op {
		o := op{who: who.Draw(t, "who"), kind: kindGen.Draw(t, "kind")}
		if kinds[o.kind].call == nil {
			o.who = "all"
		}
		for _, typ := range kinds[o.kind].args {
			o.args = append(o.args, argument[typ].Draw(t, typ))
		}
		return o
	})
	begin, err := parseScript(beginning)
	if err != nil {
		panic(err)
	}
	return rapid.Map(rapid.SliceOfN(one, n, n), func(ops []op) script { return append(slices.Clone(begin), ops...) })
}

// shorten takes operations away as long as what is left still differs: halves,
// quarters, and so on down to single ones, until no single one can go.
func shorten(ops []op, differs func([]op) bool) []op {
	for n := len(ops) / 2; n >= 1; {
		less := false
		for at := 0; at < len(ops); {
			rest := append(slices.Clone(ops[:at]), ops[min(at+n, len(ops)):]...)
			if differs(rest) {
				ops, less = rest, true
			} else {
				at += n
			}
		}
		if !less || n > 1 {
			n /= 2
		}
	}
	return ops
}
