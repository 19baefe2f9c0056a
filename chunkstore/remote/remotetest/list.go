package remotetest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"stepfs/chunkstore/remote"
)

func lists(t *testing.T, b remote.Bucket) {
	if got := keys(t, b, "", ""); len(got) != 0 {
		t.Fatalf("in an empty bucket are %q", got)
	}
	// '-' and '.' sort before '/', and digits behind it: where a directory ends
	// up depends on its slash.
	all := []string{"a-b/x", "a-c", "a.b", "a/0", "a/b-c", "a/b/c", "a/b/d", "a/b0", "a0", "b", "refs/w1/1", "refs/w1/10", "refs/w1/2", "refs/w2/1"}
	for _, key := range slices.Backward(all) {
		put(t, b, key, []byte(key))
	}
	listed := func(prefix, after string) {
		t.Helper()
		var want []string
		for _, key := range all {
			if strings.HasPrefix(key, prefix) && key > after {
				want = append(want, key)
			}
		}
		if got := keys(t, b, prefix, after); !slices.Equal(got, want) {
			t.Errorf("below %q after %q are\n%q, want\n%q", prefix, after, got, want)
		}
	}
	for _, prefix := range []string{"", "a", "a/", "a-", "a/b", "a/b/", "a/b/c", "a/b/c/", "b", "refs", "refs/", "refs/w", "refs/w1/1", "refs/w3", "z", "a/b/c/d/e"} {
		for _, after := range append([]string{"", "-", "a", "a/", "a/b", "a/bb", "refs/w", "refs/w1/11", "zzz"}, all...) {
			listed(prefix, after)
		}
	}
	for o, err := range b.List(t.Context(), "", "") { // who has seen enough leaves
		if err != nil || o.Key != all[0] || o.Size != int64(len(all[0])) {
			t.Fatalf("the first is %+v, %v", o, err)
		}
		break
	}
}

// longList has more objects than a page, around a page's end and after each.
func (s Suite) longList(t *testing.T, b remote.Bucket) {
	all := make([]string, s.Listed)
	errs := make([]error, s.Listed)
	for i := range all {
		all[i] = fmt.Sprintf("packs/%02x/%06d", i%7, i)
	}
	const workers = 8
	atOnce(workers, func(w int) {
		for i := w; i < len(all); i += workers {
			errs[i] = b.Put(t.Context(), all[i], remote.Bytes([]byte(all[i])))
		}
	})
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	put(t, b, "other", nil)
	slices.Sort(all)
	if got := keys(t, b, "packs/", ""); !slices.Equal(got, all) {
		t.Fatalf("%d objects are listed of %d", len(got), len(all))
	}
	for _, i := range []int{0, len(all) / 2, len(all) - 2, len(all) - 1} {
		if got := keys(t, b, "packs/", all[i]); !slices.Equal(got, all[i+1:]) {
			t.Fatalf("after number %d are %d objects of %d", i, len(got), len(all))
		}
	}
}
