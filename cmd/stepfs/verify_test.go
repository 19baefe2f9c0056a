package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"stepfs/snapshot"
)

func TestRecovery(t *testing.T) {
	day := time.Unix(1e9, 0)
	fast := &snapshot.Verified{Time: day, Took: time.Second, Bytes: 100 << 20}
	slow := &snapshot.Verified{Time: day.Add(time.Hour), Took: 2 * time.Second, Bytes: 100 << 20}
	tiny := &snapshot.Verified{Time: day.Add(2 * time.Hour), Took: time.Second, Bytes: 1}
	bad := &snapshot.Verified{Time: day.Add(-time.Hour), Problems: []string{"a: b"}}
	last := &SnapshotInfo{Logical: 500 << 20}
	for _, tc := range []struct {
		all   []*snapshot.Verified
		last  *SnapshotInfo
		want  RecoveryInfo
		words string
	}{
		{nil, nil, RecoveryInfo{Rate: defaultRate}, "0 of 0 steps read back and whole (0%)"},
		{[]*snapshot.Verified{nil, nil}, &SnapshotInfo{}, RecoveryInfo{Rate: defaultRate}, "0 of 2 steps"},
		{[]*snapshot.Verified{nil, tiny}, last, RecoveryInfo{Sound: 1, Integrity: 50, Rate: defaultRate, Seconds: 2}, "(50%); a restore of the last step takes about 2 s"},
		{[]*snapshot.Verified{slow, fast, bad, nil}, last, RecoveryInfo{Sound: 2, Damaged: 1, Integrity: 50, Rate: 50 << 20, Seconds: 10}, "1 DAMAGED"},
	} {
		got := recoveryOf(slices.Values(tc.all), len(tc.all), tc.last)
		if got != tc.want || !strings.Contains(got.words(len(tc.all)), tc.words) {
			t.Errorf("%+v %q, want %+v %q", got, got.words(len(tc.all)), tc.want, tc.words)
		}
	}
}
