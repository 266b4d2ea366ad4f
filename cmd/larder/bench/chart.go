package bench

import (
	"fmt"
	"math"
	"strings"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/dustin/go-humanize"
)

// The drawing area of a chart, in the units of its viewBox: the latencies, and below them the rounds.
const (
	chartWidth                  = 520.0
	chartTop, chartBottom       = 40.0, 172.0
	chartRoundsTop, chartRounds = 226.0, 296.0
	chartBins                   = 72
)

// A chart is the drawing of a workload, in those units.
type chart struct {
	Larder, Floor string // paths around the densities of the latencies
	Ticks         []tick
	Marks         []percentileMark
	Rounds        []roundDots
	Top           string // calls per second at the upper line of the rounds
}

// A tick is a label on the axis of the latencies.
type tick struct {
	At    float64
	Label string
}

// A percentileMark is a line at a percentile of the latencies of one server.
type percentileMark struct {
	Who, Label, Anchor string
	At, Top            float64
}

// roundDots are the calls per second of both servers in one round.
type roundDots struct{ At, Larder, Floor float64 }

// chart returns the drawing of a workload, which is empty if a server has answered no call.
func (w *result) chart() (c chart) {
	larder, floor := w.Larder.latencies, w.Floor.latencies
	if larder.TotalCount() == 0 || floor.TotalCount() == 0 {
		return c
	}
	// The axis ends at the 99.9th percentile: the slowest calls would squeeze the others into a corner.
	lowest := math.Log10(float64(min(larder.ValueAtQuantile(0.1), floor.ValueAtQuantile(0.1)))) - 0.1
	highest := math.Log10(float64(max(larder.ValueAtQuantile(99.9), floor.ValueAtQuantile(99.9)))) + 0.1
	highest = max(highest, lowest+0.5)
	x := func(ns float64) float64 { return round1((math.Log10(ns) - lowest) / (highest - lowest) * chartWidth) }

	shapes := [2][]float64{density(larder, lowest, highest), density(floor, lowest, highest)}
	peak := 0.0
	for _, shape := range shapes {
		for _, share := range shape {
			peak = max(peak, share)
		}
	}
	c.Larder, c.Floor = outline(shapes[0], peak), outline(shapes[1], peak)
	steps := []float64{1, 2, 5}
	if highest-lowest > 2.5 {
		steps = []float64{1, 3}
	}
	for power := math.Floor(lowest); power <= highest; power++ {
		for _, step := range steps {
			ns := step * math.Pow(10, power)
			if at := x(ns); at >= 12 && at <= chartWidth-12 {
				c.Ticks = append(c.Ticks, tick{at, micros(ns / 1000)})
			}
		}
	}
	for _, mark := range []struct {
		who, label, anchor string
		histogram          *hdrhistogram.Histogram
		quantile, top      float64
	}{
		{"floor", "p50", "end", floor, 50, 26},
		{"floor", "p99", "start", floor, 99, 26},
		{"larder", "p50", "end", larder, 50, 38},
		{"larder", "p99", "start", larder, 99, 38},
	} {
		ns := float64(mark.histogram.ValueAtQuantile(mark.quantile))
		m := percentileMark{Who: mark.who, Label: mark.label + " " + micros(ns/1000), Anchor: mark.anchor, At: x(ns), Top: mark.top}
		if m.At < 60 {
			m.Anchor = "start"
		} else if m.At > chartWidth-60 {
			m.Anchor = "end"
		}
		c.Marks = append(c.Marks, m)
	}

	fastest := 0.0
	for i := range w.Larder.CallRates {
		fastest = max(fastest, w.Larder.CallRates[i], w.Floor.CallRates[i])
	}
	fastest = max(nice(fastest), 1)
	c.Top = humanize.Comma(int64(fastest))
	y := func(rate float64) float64 { return round1(chartRounds - rate/fastest*(chartRounds-chartRoundsTop)) }
	for i, rate := range w.Larder.CallRates {
		at := round1((float64(i) + 0.5) / float64(len(w.Larder.CallRates)) * chartWidth)
		c.Rounds = append(c.Rounds, roundDots{at, y(rate), y(w.Floor.CallRates[i])})
	}
	return c
}

// density returns the share of the calls in each bin, lightly smoothed. The bins divide the latencies from 10^lowest to
// 10^highest nanoseconds equally on a logarithmic scale.
func density(h *hdrhistogram.Histogram, lowest, highest float64) []float64 {
	raw := make([]float64, chartBins)
	for _, bar := range h.Distribution() {
		middle := float64(bar.From+bar.To) / 2
		i := int((math.Log10(middle) - lowest) / (highest - lowest) * chartBins)
		if bar.Count > 0 && i >= 0 && i < chartBins {
			raw[i] += float64(bar.Count) / float64(h.TotalCount())
		}
	}
	smooth := make([]float64, chartBins)
	for i := range raw {
		smooth[i] = (raw[max(i-1, 0)] + 2*raw[i] + raw[min(i+1, chartBins-1)]) / 4
	}
	return smooth
}

// outline returns the SVG path around a density whose maximum is drawn as high as peak.
func outline(shape []float64, peak float64) string {
	var path strings.Builder
	fmt.Fprintf(&path, "M0 %g", chartBottom)
	for i, share := range shape {
		fmt.Fprintf(&path, "L%g %g", round1((float64(i)+0.5)/float64(len(shape))*chartWidth), round1(chartBottom-quotient(share, peak)*(chartBottom-chartTop)))
	}
	fmt.Fprintf(&path, "L%g %g", chartWidth, chartBottom)
	return path.String()
}

// nice rounds v up to a multiple of half the power of ten that it begins with: 1234 to 1500.
func nice(v float64) float64 {
	if v <= 0 {
		return 0
	}
	unit := math.Pow(10, math.Floor(math.Log10(v)))
	return math.Ceil(v/unit*2) / 2 * unit
}

// round1 rounds to one decimal, which is finer than a pixel.
func round1(v float64) float64 { return math.Round(v*10) / 10 }
