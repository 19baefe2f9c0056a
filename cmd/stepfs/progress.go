package main

import (
	"os"
	"sync"

	"github.com/cheggaaa/pb/v3"
)

// progress is a bar of bytes on a terminal, and nothing elsewhere.
type progress struct {
	bar  *pb.ProgressBar // nil: nobody looks
	once sync.Once
}

func newProgress(w *os.File, what string) *progress {
	if !isTerminal(w) {
		return &progress{}
	}
	const template = `{{string . "what"}} {{counters . }} {{bar . }} {{percent . }} {{speed . }} {{rtime . "ETA %s"}} {{string . "note"}}`
	bar := pb.New64(0).SetTemplate(template).SetWriter(w).Set(pb.Bytes, true).Set("what", what).Set("note", "")
	return &progress{bar: bar.Start()}
}

// newCounter is a bar of things that are no bytes.
func newCounter(w *os.File, what string) *progress {
	if !isTerminal(w) {
		return &progress{}
	}
	const template = `{{string . "what"}} {{counters . }} {{bar . }} {{percent . }} {{string . "note"}}`
	return &progress{bar: pb.New64(0).SetTemplate(template).SetWriter(w).Set("what", what).Set("note", "").Start()}
}

func (p *progress) total(n int64) {
	if p.bar != nil {
		p.bar.SetTotal(n)
	}
}

func (p *progress) set(n int64) {
	if p.bar != nil {
		p.bar.SetCurrent(n)
	}
}

func (p *progress) add(n int64) {
	if p.bar != nil {
		p.bar.Add64(n)
	}
}

// note is shown behind the bar.
func (p *progress) note(s string) {
	if p.bar != nil {
		p.bar.Set("note", s)
	}
}

func (p *progress) finish() {
	if p.bar != nil {
		p.once.Do(func() { p.bar.Finish() })
	}
}
