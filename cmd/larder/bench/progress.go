package bench

import (
	"os"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// A progress shows on standard error which part of the benchmark runs, if standard error is a terminal.
type progress struct{ bar *progressbar.ProgressBar } // bar is nil if standard error is not a terminal

// newProgress shows a bar with one step for each turn of each workload.
func newProgress(workloads []workload, rounds int) *progress {
	if !term.IsTerminal(int(os.Stderr.Fd())) {
		return &progress{}
	}
	steps := 0
	for _, w := range workloads {
		steps += (rounds + 1) * w.legs()
	}
	return &progress{progressbar.NewOptions(steps+1,
		progressbar.OptionSetWriter(os.Stderr), progressbar.OptionSetWidth(30), progressbar.OptionClearOnFinish(),
		progressbar.OptionSetPredictTime(true), progressbar.OptionSetElapsedTime(false), progressbar.OptionSetRenderBlankState(true),
	)}
}

// step moves the bar to the next step, with the name of its workload.
func (p *progress) step(name string) {
	if p.bar == nil {
		return
	}
	p.bar.Describe(name)
	_ = p.bar.Add(1)
}

// end removes the bar.
func (p *progress) end() {
	if p.bar != nil {
		_ = p.bar.Clear()
		_ = p.bar.Exit()
	}
}
