package main

import (
	"os"

	"github.com/schollz/progressbar/v3"
)

// A benchProgress shows on standard error how far the benchmark is, if that is a terminal.
type benchProgress struct{ bar *progressbar.ProgressBar }

func newBenchProgress(workloads []benchWorkload, rounds int) *benchProgress {
	if !isTerminal(os.Stderr) {
		return &benchProgress{}
	}
	steps := 0
	for _, w := range workloads {
		steps += (rounds + 1) * w.legs()
	}
	return &benchProgress{progressbar.NewOptions(steps+1,
		progressbar.OptionSetWriter(os.Stderr), progressbar.OptionSetWidth(30), progressbar.OptionClearOnFinish(),
		progressbar.OptionSetPredictTime(true), progressbar.OptionSetElapsedTime(false), progressbar.OptionSetRenderBlankState(true),
	)}
}

// step says that something begins.
func (p *benchProgress) step(what string) {
	if p.bar == nil {
		return
	}
	p.bar.Describe(what)
	_ = p.bar.Add(1)
}

// end removes the bar.
func (p *benchProgress) end() {
	if p.bar != nil {
		_ = p.bar.Clear()
		_ = p.bar.Exit()
	}
}
