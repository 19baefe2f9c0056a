package include

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"
	"unicode/utf8"
)

// FuzzManifest: whatever paths and errors there are, the manifest is JSON, and
// what it says comes back.
func FuzzManifest(f *testing.F) {
	f.Add("/etc/a", "/etc/*", "copy", "", int64(5), int64(1))
	f.Add("/odd \n\xff\u2028\"", "</script>", "", "stat: \x00", int64(-1), int64(-1<<62))
	f.Fuzz(func(t *testing.T, source, pattern, how, why string, size, mtime int64) {
		row := Row{Source: source, Include: pattern, How: how, Size: size, Error: why, Mtime: time.Unix(0, mtime).UTC()}
		b, err := encodeManifest([]Row{row, {Source: "/z", How: HowLink}})
		if err != nil {
			t.Fatal(err)
		}
		var m Manifest
		if err := json.Unmarshal(b, &m); err != nil || m.Version != manifestVersion || len(m.Files) != 2 {
			t.Fatalf("%q: %+v, %v", b, m, err)
		}
		if !utf8.ValidString(source + pattern + how + why) {
			return // JSON has no other strings
		}
		for _, got := range m.Files {
			got.Mtime = got.Mtime.UTC()
			if reflect.DeepEqual(got, row) {
				return
			}
		}
		t.Fatalf("%+v became %+v", row, m.Files)
	})
}
