package rls

import (
	"fmt"
	"math"
	"strconv"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	envoy "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
)

// A Result is what the counter of a charge says.
type Result struct {
	// Over is set if the charge does not fit. Charged is set if it was counted, which it may not have been although it
	// fits, because another charge of the request does not.
	Over, Charged bool
	// Used is what was used of the limit before the charge; for a refund, what is used after it.
	Used uint64
	// Reset is the time until the limit is whole again; for a fixed window, until its end. 0 means unknown.
	Reset time.Duration
	// Local is set if the charge was denied from memory, without asking Redis.
	Local bool
	// Degraded is set if Redis did not answer. Then Over is what the failure policy says.
	Degraded bool
}

// Answer builds the answer to a request from the results of the charges, in their order, and counts it. Denied reports
// whether it denies the request.
func (p *Plan) Answer(results []Result, now time.Time, s *Stats) (answer *envoy.RateLimitResponse, denied bool) {
	answer = &envoy.RateLimitResponse{Statuses: make([]*envoy.RateLimitResponse_DescriptorStatus, len(p.lines))}
	failed, quotas, quotasFailed := 0, 0, 0
	var passed []int
	// tightest is the status that the headers are about: that with the least remaining, or the last one over its limit.
	var tightest *envoy.RateLimitResponse_DescriptorStatus
	for i, l := range p.lines {
		status := &envoy.RateLimitResponse_DescriptorStatus{Code: envoy.RateLimitResponse_OK}
		answer.Statuses[i] = status
		switch l.fate {
		case unlimited:
			status.LimitRemaining = math.MaxUint32
			if c := l.rule.counts; c != nil {
				c.add(Total, l.hits)
				c.add(Within, l.hits)
			}
			continue
		case counted:
			p.status(status, l, results[l.charge], now)
			p.count(l, results[l.charge])
			if tightest == nil || status.GetLimitRemaining() < tightest.GetLimitRemaining() {
				tightest = status
			}
		case noRule:
		}
		over := status.GetCode() == envoy.RateLimitResponse_OVER_LIMIT
		if !over {
			passed = append(passed, i)
		}
		switch {
		case l.quota:
			if quotas++; over {
				quotasFailed++
			}
		case over:
			failed++
			tightest = status
		}
	}
	if denied = failed > 0 || quotas > 0 && quotasFailed == quotas; denied && p.options.Shadow {
		denied = false
		s.globalShadow.Add(1)
	}
	answer.OverallCode = envoy.RateLimitResponse_OK
	if denied {
		answer.OverallCode = envoy.RateLimitResponse_OVER_LIMIT
	}
	if p.options.Headers && tightest != nil {
		answer.ResponseHeadersToAdd = p.options.HeaderNames.of(tightest)
	}
	if p.options.DynamicMetadata {
		answer.DynamicMetadata = p.metadata(passed)
	}
	return answer, denied
}

// status fills in the status of a descriptor that is counted.
func (p *Plan) status(status *envoy.RateLimitResponse_DescriptorStatus, l line, r Result, now time.Time) {
	rule := l.rule
	status.CurrentLimit = &envoy.RateLimitResponse_RateLimit{Name: rule.Name, RequestsPerUnit: rule.RequestsPerUnit, Unit: rule.Unit}
	if r.Reset <= 0 && rule.Algorithm == FixedWindow {
		r.Reset = rule.Period - time.Duration(now.UnixNano()%int64(rule.Period))
	}
	status.DurationUntilReset = &durationpb.Duration{Seconds: int64((r.Reset + time.Second - 1) / time.Second)}
	charge := p.Charges[l.charge]
	if charge.Refund {
		r.Over = false
	} else if r.Charged || r.Degraded {
		r.Used += charge.Hits
	}
	switch {
	case r.Over && !rule.Shadow:
		status.Code = envoy.RateLimitResponse_OVER_LIMIT
	case r.Over: // in shadow_mode: OK, and nothing remains
	default:
		status.LimitRemaining = uint32(min(rule.Capacity()-min(r.Used, rule.Capacity()), math.MaxUint32)) //nolint:gosec // it fits
	}
}

// metadata returns the dynamic metadata of an answer. Passed are the descriptors that are not over their limit.
func (p *Plan) metadata(passed []int) *structpb.Struct {
	fields := map[string]*structpb.Value{"domain": structpb.NewStringValue(p.request.GetDomain())}
	descriptors := make([]*structpb.Value, len(p.request.GetDescriptors()))
	for i, d := range p.request.GetDescriptors() {
		descriptors[i] = structpb.NewStructValue(described(d))
	}
	fields["descriptors"] = structpb.NewListValue(&structpb.ListValue{Values: descriptors})
	if hits := p.request.GetHitsAddend(); hits != 0 {
		fields["hitsAddend"] = structpb.NewNumberValue(float64(hits))
	}
	merged := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for _, i := range passed {
		if rule := p.lines[i].rule; rule != nil {
			merge(merged, rule.Metadata)
		}
	}
	if len(merged.GetFields()) > 0 {
		fields["metadata"] = structpb.NewStructValue(merged)
	}
	return &structpb.Struct{Fields: fields}
}

func described(d *common.RateLimitDescriptor) *structpb.Struct {
	entries := make([]*structpb.Value, len(d.GetEntries()))
	for i, entry := range d.GetEntries() {
		entries[i] = structpb.NewStringValue(entry.GetKey() + "=" + entry.GetValue())
	}
	fields := map[string]*structpb.Value{"entries": structpb.NewListValue(&structpb.ListValue{Values: entries})}
	if limit := d.GetLimit(); limit != nil {
		fields["limit"] = structpb.NewStringValue(fmt.Sprintf("requests_per_unit:%d unit:%s", limit.GetRequestsPerUnit(), limit.GetUnit()))
	}
	if hits := d.GetHitsAddend(); hits != nil {
		fields["hitsAddend"] = structpb.NewNumberValue(float64(hits.GetValue()))
	}
	return &structpb.Struct{Fields: fields}
}

// merge adds the fields of from to to, which keeps the values that it has. Mappings are merged in turn; those of from are
// not changed.
func merge(to, from *structpb.Struct) {
	for name, value := range from.GetFields() {
		there, ok := to.Fields[name]
		inner := value.GetStructValue()
		switch {
		case !ok && inner != nil:
			fresh := &structpb.Struct{Fields: map[string]*structpb.Value{}}
			merge(fresh, inner)
			to.Fields[name] = structpb.NewStructValue(fresh)
		case !ok:
			to.Fields[name] = value
		case inner != nil && there.GetStructValue() != nil:
			merge(there.GetStructValue(), inner)
		}
	}
}

// HeaderNames are the names of the headers that answers add, without those that are empty.
type HeaderNames struct {
	// Limit has requests_per_unit, Remaining what is left of it, and Reset the seconds until the limit is whole again.
	Limit, Remaining, Reset string
}

func (n HeaderNames) of(status *envoy.RateLimitResponse_DescriptorStatus) (headers []*core.HeaderValue) {
	for _, h := range []struct {
		name  string
		value int64
	}{
		{n.Limit, int64(status.GetCurrentLimit().GetRequestsPerUnit())},
		{n.Remaining, int64(status.GetLimitRemaining())},
		{n.Reset, status.GetDurationUntilReset().GetSeconds()},
	} {
		if h.name != "" {
			headers = append(headers, &core.HeaderValue{Key: h.name, Value: strconv.FormatInt(h.value, 10)})
		}
	}
	return headers
}
