package main

import (
	"log/slog"
	"os"
)

// setUpLog sends the log to stderr as text; a daemon in the background has its
// stderr in STORE/stepfs.log.
func setUpLog(debug bool) {
	level := slog.LevelInfo
	if debug {
		level = slog.LevelDebug
	}
	logFrom(level)
}

// logFrom logs what is at least of that level.
func logFrom(level slog.Level) {
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})))
}
