package client

import (
	"bytes"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// RateLimitHeaders returns the fields by which an HTTP answer tells its client of rate limits: RateLimit-Policy and RateLimit as in
// draft-ietf-httpapi-ratelimit-headers-11, and Retry-After (RFC 9110, section 10.2.3) if the call is denied and may be repeated.
//
// Each limit is one item of both fields, in the order of the call: its quota (q) and window (w), what is available (r), and for how
// long no more is (t). Times are in seconds, rounded up. A limit without a name is called "default". Limits in shadow are left out,
// and so is what is available of limits that Redis did not decide about, which nobody knows. The partition key (pk) is the hash of
// the subject, unless all limits have the same.
func RateLimitHeaders(d RateLimitDecision) http.Header {
	var policies, limits []string
	several := false
	for i := range d.Limits {
		several = several || !bytes.Equal(d.Limits[i].Partition, d.Limits[0].Partition)
	}
	for i := range d.Limits {
		l := &d.Limits[i]
		if l.Shadow {
			continue
		}
		name := quoted(l.Name)
		partition := ""
		if several && len(l.Partition) > 0 {
			partition = ";pk=:" + base64.StdEncoding.EncodeToString(l.Partition) + ":"
		}
		policies = append(policies, name+";q="+strconv.FormatInt(l.Limit, 10)+";w="+wholeSeconds(l.Window)+partition)
		if l.Degraded && l.ResetAfter == 0 && l.Remaining == 0 {
			continue
		}
		item := name + ";r=" + strconv.FormatInt(l.Remaining, 10)
		if l.AvailableAfter > 0 {
			item += ";t=" + wholeSeconds(l.AvailableAfter)
		}
		limits = append(limits, item+partition)
	}
	h := make(http.Header)
	if policies != nil {
		h.Set("Ratelimit-Policy", strings.Join(policies, ", "))
	}
	if limits != nil {
		h.Set("Ratelimit", strings.Join(limits, ", "))
	}
	if !d.Allowed && d.RetryAfter > 0 {
		h.Set("Retry-After", wholeSeconds(d.RetryAfter))
	}
	return h
}

// quoted returns a name as a string of a structured field (RFC 9651, section 3.3.3). Names of rules need no escapes.
func quoted(name string) string {
	if name == "" {
		name = "default"
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(name) + `"`
}

// wholeSeconds rounds up.
func wholeSeconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}
