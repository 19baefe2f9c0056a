package suites

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"stepfs/integration/harness"
)

// ledger is what testdata/sqlite.py says of a database.
type ledger struct {
	Integrity        string
	Sum, Moves, Torn int
}

func readLedger(t *testing.T, path string) (l ledger) {
	t.Helper()
	must(t, json.Unmarshal([]byte(shell(t, python, "testdata/sqlite.py", "check", path)), &l))
	if l.Integrity != "ok" || l.Sum != 500*1000 || l.Torn != 0 {
		t.Errorf("%s: %+v", path, l)
	}
	return l
}

// sqlite has four processes move money in both journal modes, while snapshots
// are taken: each holds a database that is whole and has every transaction that
// was committed before.
func sqlite(t *testing.T, d *harness.Daemon, transactions int) {
	t.Helper()
	for _, mode := range []string{"wal", "delete"} {
		dir := mkdir(t, filepath.Join(d.Mnt, "sqlite-"+mode))
		shell(t, python, "testdata/sqlite.py", "create", dir+"/db", mode)
		done := make(chan error, 1)
		go func() {
			_, err := command(python, "testdata/sqlite.py", "run", dir+"/db", "4", fmt.Sprint(transactions))
			done <- err
		}()
		shots := 0
		for running := true; running; {
			select {
			case err := <-done:
				must(t, err)
				running = false
			case <-time.After(700 * time.Millisecond):
				shots++
				sqliteShot(t, d, mode, shots)
			}
		}
		if l := readLedger(t, dir+"/db"); l.Moves != 4*transactions {
			t.Errorf("%s: %d of %d transactions", mode, l.Moves, 4*transactions)
		}
		t.Logf("%s: %d snapshots meanwhile", mode, shots)
	}
}

// sqliteShot takes a snapshot of a database in use and opens a copy of it.
func sqliteShot(t *testing.T, d *harness.Daemon, mode string, n int) {
	t.Helper()
	before := readLedger(t, filepath.Join(d.Mnt, "sqlite-"+mode, "db"))
	then := snap(t, d, fmt.Sprintf("%s-%d", mode, n))
	to := native(t)
	byCp.copy(t, filepath.Join(then, "sqlite-"+mode), to)
	if after := readLedger(t, to+"/db"); after.Moves < before.Moves {
		t.Errorf("%s, snapshot %d: %d transactions, %d were committed before it", mode, n, after.Moves, before.Moves)
	}
}

func TestSQLite(t *testing.T) {
	transactions := 250
	if long {
		transactions = 10000
	}
	d := mount(t)
	sqlite(t, d, transactions)
	again(t, d, "", byCp)
}
