package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"stepfs/internal/hostile"
)

// terse answers as scripted does, with a short list: what an answer takes by
// itself does not hide what a request makes it take.
type terse struct{ scripted }

func (terse) Snapshots(_ context.Context, _ SnapshotQuery, fn func(SnapshotInfo) error) error {
	return errors.Join(fn(SnapshotInfo{Step: "1"}), fn(SnapshotInfo{Step: "2"}))
}

// FuzzSocket: whatever comes through the socket is answered in JSON, with an
// error that says what is wrong, and costs what its body has.
func FuzzSocket(f *testing.F) {
	leave := make(chan leaveCall)
	go func() {
		for call := range leave {
			call.done <- nil
		}
	}()
	api := newAPI(terse{}, leave)
	for _, s := range []struct{ path, body string }{
		{"status", ""}, {"stats", ""}, {"find", `{"scope":"a","step":"7"}`}, {"snapshot", `{"name":"x","tags":["a","b"]}`},
		{"rollback", `{"step":"7"}`}, {"snapshots", `{"scope":null,"barriers":true}`}, {"drain", `{}`}, {"forget", `{"steps":["1","2"],"by":"me"}`},
		{"unforget", `{"policy":true}`}, {"hold", `{"step":"7","name":"n","uid":4294967296}`}, {"release", `{"step":"7","uid":-1}`}, {"warm", `{"step":"7"}`}, {"pin", `{"step":"7","uid":-1}`},
		{"policy", `{"set":["keep-last=3"],"unset":["x"]}`}, {"explain", `{"path":"/a"}`}, {"prune", `{"wait":true}`}, {"check", `{"read_data":9}`},
		{"verify", `{"step":"7"}`}, {"diff", `{"old":"1","new":"2"}`}, {"step-stats", `{"step":"7","files":true}`}, {"history", `{"path":"p"}`}, {"umount", `{"lazy":true}`},
		{"nothing", `{}`}, {"find", `{"step":` + strings.Repeat("[", 20000)}, {"find", `{"step":"a"}{"step":"b"}`}, {"find", `{"newer":1}`},
	} {
		f.Add("POST", s.path, []byte(s.body))
		f.Add("GET", s.path, []byte(s.body))
	}
	f.Fuzz(func(t *testing.T, method, path string, body []byte) {
		for _, s := range []string{method, path} {
			if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '%' || r == '?' || r == '#' }) {
				return
			}
		}
		req, err := http.NewRequest(method, "http://stepfs/v1/"+path, bytes.NewReader(body))
		if err != nil {
			return
		}
		w := httptest.NewRecorder()
		hostile.Bounded(t, len(body)+4<<10, 64, func() { api.ServeHTTP(w, req) })
		res := w.Result()
		if res.StatusCode == http.StatusNotFound || res.StatusCode == http.StatusMethodNotAllowed || res.StatusCode == http.StatusMovedPermanently || res.StatusCode == http.StatusTemporaryRedirect {
			return // the mux's own
		}
		dec := json.NewDecoder(res.Body)
		for n := 0; dec.More(); n++ {
			var v map[string]any
			if err := dec.Decode(&v); err != nil {
				t.Fatalf("%s %s with %q: answer %d is not JSON: %v", method, path, body, n, err)
			}
			if res.StatusCode != http.StatusOK && (v["error"] == "" || v["exit"] == nil) {
				t.Fatalf("%s %s with %q: %d says %v", method, path, body, res.StatusCode, v)
			}
		}
	})
}
