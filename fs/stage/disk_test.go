package stage

import (
	"errors"
	"io/fs"
	"testing"
)

// What is done to a staging file that was freed meanwhile says that it was
// closed: a sync that fails for that is no failed sync.
func TestClosedStagingFile(t *testing.T) {
	d := NewDisk(t.TempDir())
	f, err := d.Create(1)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	_, _, dataErr := f.Data(0)
	for what, err := range map[string]error{
		"sync": f.Sync(), "data": dataErr, "write out": f.(osFile).WriteOut(0, 1),
	} {
		if !errors.Is(err, fs.ErrClosed) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
