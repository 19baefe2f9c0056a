// Package rules is the table of how training code writes checkpoints: which
// names are steps, and what makes one whole. It is pure logic on paths and
// lists of names; package snapshot applies it to what happens in the live tree.
//
// Read rules.txt first (the table, and its form), then rules.go (what a rule
// says), match.go (which step a path belongs to) and parse.go.
package rules
