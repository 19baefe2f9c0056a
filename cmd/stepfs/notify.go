package main

import (
	"fmt"
	"log/slog"

	systemd "github.com/coreos/go-systemd/v22/daemon"
)

// A daemon that systemd started (Type=notify) tells it how it is, on the socket
// that NOTIFY_SOCKET names. Without that variable nobody is told anything.
//
// There is no watchdog: a daemon that waits for a slow disk is not a sick one.

// notify sends lines of the form NAME=value, see sd_notify(3).
func notify(lines string) {
	if _, err := systemd.SdNotify(false, lines); err != nil {
		slog.Warn("telling systemd", "error", err)
	}
}

// notifyStarting says what takes so long, should it.
func notifyStarting(store string) { notify("STATUS=opening " + store) }

// notifyReady is told by the process that systemd started: with -d that is not
// the daemon.
func notifyReady(r readyLine) {
	notify(fmt.Sprintf("READY=1\nMAINPID=%d\nSTATUS=%s is mounted on %s", r.PID, r.Store, r.Mountpoint))
}

// notifyStopping is told once the daemon has decided to leave.
func notifyStopping(why string) { notify("STOPPING=1\nSTATUS=" + why) }
