package bench

import (
	"slices"
	"time"
)

// result summarises the legs of a workload: Larder's, the floor's, and the one of workload.beside if there is one.
func (w *workload) result(legs []*leg) result {
	r := result{Name: w.name, About: w.about, Goal: w.goal, Larder: legs[0].figures(), Floor: legs[1].figures()}
	r.Ratio = compare(r.Larder.CallRates, r.Floor.CallRates)
	if r.Larder.CPUPerCall != nil && r.Floor.CPUPerCall != nil {
		r.CPURatio = quotient(*r.Larder.CPUPerCall, *r.Floor.CPUPerCall)
	}
	if len(legs) > 2 {
		unary := legs[2].figures()
		keys := compare(legs[0].itemRates(), legs[2].itemRates())
		r.Unary, r.KeysRatio, r.KeysGoal = &unary, &keys, w.besideGoal
	}
	return r
}

// figures summarises the turns of a leg.
func (g *leg) figures() figures {
	f := figures{CallRates: []float64{}, Messages: make(map[string]int64), latencies: newHistogram()}
	for _, c := range g.callers {
		f.latencies.Merge(c.latencies)
		for message, n := range c.failures {
			f.Messages[message] += n
			f.Errors += n
		}
	}
	var cpu time.Duration
	waves := 0
	redis, executed := make(map[string]float64), make(map[string]float64)
	cpuKnown, redisKnown, executedKnown := true, true, true
	for _, t := range g.turns {
		f.Calls += t.calls
		f.CallRates = append(f.CallRates, float64(t.calls)/t.took.Seconds())
		waves += t.waves
		cpu += t.spent.cpu
		cpuKnown = cpuKnown && t.spent.cpu >= 0
		redisKnown = redisKnown && t.spent.roundTrips != nil
		executedKnown = executedKnown && t.spent.executed != nil
		add(redis, t.spent.roundTrips)
		add(executed, t.spent.executed)
	}
	f.CallsPerSecond, f.ItemsPerSecond = median(f.CallRates), median(g.itemRates())
	quantile := func(q float64) float64 { return float64(f.latencies.ValueAtQuantile(q)) / 1000 }
	f.Latency = latency{quantile(50), quantile(90), quantile(99), quantile(99.9), float64(f.latencies.Max()) / 1000}
	if f.Calls == 0 {
		return f
	}
	calls := float64(f.Calls)
	if cpuKnown {
		f.CPUPerCall = new(float64(cpu.Nanoseconds()) / 1000 / calls)
	}
	if redisKnown {
		f.RedisPerCall, f.RedisCommands = perCall(redis, calls)
	}
	if executedKnown {
		f.ExecutedPerCall, f.Executed = perCall(executed, calls)
	}
	if g.waves && waves > 0 {
		f.LoadsPerKey = new(float64(g.loads.Load()) / float64(waves))
	}
	return f
}

// itemRates returns the items per second of each turn.
func (g *leg) itemRates() (rates []float64) {
	for _, t := range g.turns {
		rates = append(rates, float64(t.items)/t.took.Seconds())
	}
	return rates
}

// add adds counts to sum.
func add(sum, counts map[string]float64) {
	for command, n := range counts {
		sum[command] += n
	}
}

// perCall divides counts by a number of calls. It returns the sum, and each count that is above zero.
func perCall(counts map[string]float64, calls float64) (*float64, map[string]float64) {
	each, sum := make(map[string]float64), 0.0
	for command, n := range counts {
		if n > 0 {
			each[command] = n / calls
			sum += n
		}
	}
	return new(sum / calls), each
}

// compare returns the ratio of two series of rounds, a to b.
func compare(a, b []float64) (r ratio) {
	for i := range min(len(a), len(b)) {
		q := quotient(a[i], b[i])
		if i == 0 {
			r.Min, r.Max = q, q
		}
		r.Min, r.Max = min(r.Min, q), max(r.Max, q)
	}
	r.Median = quotient(median(a), median(b))
	return r
}

// quotient returns a divided by b, or 0 if b is 0: JSON has no infinity.
func quotient(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// median returns the median of values, or 0 if there are none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}
