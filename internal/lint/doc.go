// Package lint holds the rules about who may import whom, as a test.
//
// The layers of stepfs point one way, cmd -> fs -> fs/stage and
// fs -> snapshot -> chunkstore -> {pack, remote}, and what belongs to the
// program (flags, logging, metrics) stays out of its core. rules.go writes that
// down; arrows_test.go holds every package to it. A new package of ours has to
// be given its place there before it may import anything of ours.
package lint
