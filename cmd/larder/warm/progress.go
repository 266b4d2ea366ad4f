package warm

import (
	"fmt"
	"io"
	"os"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// A progress shows on a terminal how many bytes and entries were moved. It shows nothing elsewhere.
type progress struct{ bar *progressbar.ProgressBar } // bar is nil if stderr is not a terminal

// newProgress shows a bar for size bytes, of which offset are done. A size of -1 means that the size is unknown.
func newProgress(stderr io.Writer, size, offset int64) *progress {
	if file, ok := stderr.(*os.File); !ok || !term.IsTerminal(int(file.Fd())) {
		return &progress{}
	}
	bar := progressbar.NewOptions64(size,
		progressbar.OptionSetWriter(stderr), progressbar.OptionSetWidth(30), progressbar.OptionClearOnFinish(),
		progressbar.OptionShowBytes(true), progressbar.OptionSetPredictTime(true), progressbar.OptionThrottle(saveInterval/10),
	)
	_ = bar.Set64(offset)
	return &progress{bar}
}

// set moves the bar to an offset in bytes.
func (p *progress) set(offset, entries int64) {
	if p.bar != nil {
		p.bar.Describe(fmt.Sprintf("%d entries", entries))
		_ = p.bar.Set64(offset)
	}
}

// hide makes room for a line of text, until the next call of set.
func (p *progress) hide() {
	if p.bar != nil {
		_ = p.bar.Clear()
	}
}

// end removes the bar.
func (p *progress) end() {
	if p.bar != nil {
		_ = p.bar.Clear()
		_ = p.bar.Exit()
	}
}
