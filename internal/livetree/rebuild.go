package livetree

import (
	"stepfs/fs/stage"
	"stepfs/snapshot"
)

// Rebuilder shows a stage.Rebuilder to package snapshot.
type Rebuilder struct{ *stage.Rebuilder }

var _ snapshot.RebuiltTree = Rebuilder{}

// Dir begins to say what is in a directory.
func (r Rebuilder) Dir(dir uint64) (snapshot.RebuiltDir, error) { return r.Rebuilder.Dir(dir) }
