package main

import (
	"fmt"
	"io"

	"github.com/schollz/progressbar/v3"
)

// A transferProgress shows how far warm or export has come, if that is on a terminal.
type transferProgress struct{ bar *progressbar.ProgressBar }

// newTransferProgress begins at an offset of so many bytes; -1 means that their number is not known.
func newTransferProgress(stderr io.Writer, size, offset int64) *transferProgress {
	if !isTerminal(stderr) {
		return &transferProgress{}
	}
	bar := progressbar.NewOptions64(size,
		progressbar.OptionSetWriter(stderr), progressbar.OptionSetWidth(30), progressbar.OptionClearOnFinish(),
		progressbar.OptionShowBytes(true), progressbar.OptionSetPredictTime(true), progressbar.OptionThrottle(saveEvery/10),
	)
	_ = bar.Set64(offset)
	return &transferProgress{bar}
}

// to moves on to an offset.
func (p *transferProgress) to(offset, entries int64) {
	if p.bar != nil {
		p.bar.Describe(fmt.Sprintf("%d entries", entries))
		_ = p.bar.Set64(offset)
	}
}

// pause makes room for a line; the bar comes back with the next step.
func (p *transferProgress) pause() {
	if p.bar != nil {
		_ = p.bar.Clear()
	}
}

// end removes the bar.
func (p *transferProgress) end() {
	if p.bar != nil {
		_ = p.bar.Clear()
		_ = p.bar.Exit()
	}
}
