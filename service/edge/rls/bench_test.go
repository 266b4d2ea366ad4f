package rls

import "testing"

// What a request of one descriptor costs besides its counters.
func BenchmarkPlanAndAnswer(b *testing.B) {
	s := serve(b, matching, Options{})
	r := request("m", descriptor("exact=two"))
	results := []Result{{Charged: true, Reset: 1e9}}
	b.ReportAllocs()
	for b.Loop() {
		p, err := s.config.Plan(r, &s.options)
		if err != nil {
			b.Fatal(err)
		}
		p.Answer(results, noon, &s.stats)
	}
}
