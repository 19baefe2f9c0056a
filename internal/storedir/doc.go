// Package storedir owns the directory that holds a store: its layout, its
// config file, the lock that keeps a second stepfs out, and the questions that
// are asked of the filesystem below it before a byte is trusted to it.
//
// Read Open in storedir.go first: it is the order in which a path becomes a
// locked store, and every refusal that a person can meet is one of its steps.
// Then lock.go (flock and lease, and which of the two decides when) and
// config.go (the file format).
//
// The package knows nothing of what is inside journal/, staging/, index/ and
// packs/; it only makes the directories.
package storedir
