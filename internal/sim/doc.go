// Package sim holds the simulation of a whole store over one disk that can fail
// or lose power. It has no code of its own but tests: the layers are wired as
// the command wires them (store_test.go), workers use them at random and note
// what they were told (work_test.go, model_test.go), power is cut at any
// operation of the disk, and what is found then is held against the notes
// (verify_test.go, powercut_test.go).
package sim
