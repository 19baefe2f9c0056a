package journal

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Size is what the files take, whatever becomes of them.
func TestSize(t *testing.T) {
	fs := vfs.NewMem()
	same := func(l *Log, when string) {
		t.Helper()
		l.background.Wait() // no spare is half made
		var want int64
		names, err := fs.List(testDir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			info, err := fs.Stat(fs.PathJoin(testDir, name))
			if err != nil {
				t.Fatal(err)
			}
			want += info.Size()
		}
		if got := l.Size(); got != want || when != "empty" && want == 0 {
			t.Errorf("%s: %d, the files take %d", when, got, want)
		}
	}
	l := mustOpen(t, fs, testOptions)
	same(l, "empty")
	for i := range 60 {
		mustAppend(t, l, payload(i, 1000))
	}
	mustAppend(t, l, payload(60, 20_000)) // a segment of its own size
	mustSync(t, l, l.End())
	same(l, "written")
	if err := l.Trim(l.End()); err != nil {
		t.Fatal(err)
	}
	same(l, "trimmed")
	mustClose(t, l, true)
	l = mustOpen(t, fs, testOptions)
	same(l, "opened again")
	mustAppend(t, l, payload(1, 10))
	same(l, "written to again")
	mustClose(t, l, true)
}
