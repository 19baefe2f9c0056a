package sim

import (
	"os"
	"runtime/debug"
	"testing"
)

func TestMain(m *testing.M) {
	debug.SetGCPercent(400) // much is made here, and little of it lives long; but
	debug.SetMemoryLimit(1 << 30)
	os.Exit(m.Run())
}
