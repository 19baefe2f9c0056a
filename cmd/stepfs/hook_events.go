package main

import "stepfs/snapshot"

// What is reported as an event, and with which fields.

func (h *hook) sealed(i snapshot.Info) {
	event := "sealed"
	if i.Verdict == snapshot.VerdictPartial {
		event = "partial"
	}
	h.add(hookEvent{Event: event, Reason: i.Reason, info: &i})
}

func (h *hook) forgotten(i snapshot.Info) {
	h.add(hookEvent{Event: "forgotten", Reason: i.Forgotten.Reason, info: &i})
}

// expired: barriers go by the thousand, they are only counted.
func (h *hook) expired(i snapshot.Info, reason string) {
	if i.Name != "" {
		h.add(hookEvent{Event: "expired", Reason: reason, info: &i})
	}
}

func (h *hook) barriersExpired(n int, reason string) {
	h.add(hookEvent{Event: "expired", Reason: reason, Barriers: n})
}

func (h *hook) spaceLow(free, low uint64) {
	reason := humanBytes(int64(free)) + " are free, hot copies counted, and " + humanBytes(int64(low)) + " should be"
	h.add(hookEvent{Event: "space-low", Reason: reason, Free: free, Low: low})
}

func (h *hook) verified(i snapshot.Info) {
	if v := i.Verified; !v.OK() {
		h.add(hookEvent{Event: "verify-failed", Reason: v.Problems[0], info: &i})
	}
}

func (h *hook) fault(what string, err error) {
	h.add(hookEvent{Event: "fault", Reason: what + ": " + err.Error()})
}

// complete adds the fields of the snapshot that an event is about.
func (h *hook) complete(e *hookEvent) {
	if e.info == nil {
		return
	}
	s := describeSnapshot(*e.info) // what is gone needs nothing
	if e.Event != "expired" && h.describe != nil {
		s = h.describe(*e.info)
	}
	e.SnapshotInfo, e.Taken, e.SealedBy = &s, s.Time, s.Reason
}
