package include

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Names in the directory of a step.
const (
	Dir          = ".stepfs"
	FilesDir     = "included"      // the files, by their absolute paths
	ManifestName = "included.json" // what was taken, and how
)

// manifestVersion counts changes that a reader has to know of.
const manifestVersion = 1

// How something was taken.
const (
	HowCopy   = "copy"
	HowBackup = "sqlite-backup"
	HowLink   = "link"
)

// NoteChanged marks a copy that may be of several moments.
const NoteChanged = "changed-while-copied"

// Manifest says what is in a step's `.stepfs/included`.
type Manifest struct {
	Version int   `json:"version"`
	Files   []Row `json:"files"`
}

// Row is one file or link, or what can't be taken.
type Row struct {
	Source  string    `json:"source"`
	Include string    `json:"include"` // the path or pattern of --include
	How     string    `json:"how,omitempty"`
	Size    int64     `json:"size,omitempty"` // of what was taken
	Mtime   time.Time `json:"mtime,omitzero"`
	Note    string    `json:"note,omitempty"`
	Error   string    `json:"error,omitempty"` // why it was not taken
}

// encodeManifest writes a row to a line. Nothing in it tells of the time of the
// seal: what did not change makes the same manifest.
func encodeManifest(rows []Row) ([]byte, error) {
	slices.SortFunc(rows, func(a, b Row) int { return strings.Compare(a.Source, b.Source) })
	var b bytes.Buffer
	fmt.Fprintf(&b, "{\"version\": %d, \"files\": [", manifestVersion)
	for k, r := range rows {
		line, err := json.Marshal(r)
		if err != nil {
			return nil, err
		}
		if k > 0 {
			b.WriteByte(',')
		}
		b.WriteString("\n  ")
		b.Write(line)
	}
	b.WriteString("\n]}\n")
	return b.Bytes(), nil
}
