package bench

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"

	"github.com/dustin/go-humanize"
)

//go:embed report.html
var pageText string

var pageTemplate = template.Must(template.New("report").Parse(pageText))

// html writes the report as an HTML page that loads nothing else.
func (r *report) html(out io.Writer) error {
	page := struct {
		*report
		Rows []row
	}{report: r}
	for _, w := range r.Workloads {
		page.Rows = append(page.Rows, w.row())
	}
	return pageTemplate.Execute(out, page)
}

// A row is one workload on the page: two lines of the table and a chart.
type row struct {
	Name, About, Ratio, RatioNote string
	Larder, Floor                 cells
	Chart                         chart
}

// cells are the cells of one line of the table.
type cells struct {
	Rate, Ratio          string
	Latency              []string
	CPU, CPURatio        string
	RoundTrips, Commands string
}

func (w *result) row() row {
	r := row{
		Name: w.Name, About: w.About, Ratio: fmt.Sprintf("%.2f", w.Ratio.Median),
		RatioNote: fmt.Sprintf("of the floor, %.2f–%.2f", w.Ratio.Min, w.Ratio.Max),
		Larder:    w.Larder.cells(), Floor: w.Floor.cells(), Chart: w.chart(),
	}
	r.Larder.Ratio = r.Ratio
	if w.CPURatio > 0 {
		r.Larder.CPURatio = fmt.Sprintf("%.2f", w.CPURatio)
	}
	return r
}

func (f *figures) cells() cells {
	c := cells{Rate: humanize.Comma(int64(f.CallsPerSecond))}
	for _, us := range f.Latency.all() {
		c.Latency = append(c.Latency, micros(us))
	}
	c.CPU, c.RoundTrips, c.Commands = f.perCall()
	return c
}
