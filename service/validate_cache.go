package service

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	cachev1 "github.com/berthcare/larder/gen/larder/cache/v1"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store/cache"
)

// etag checks an etag.
func (f *fields) etag(field, s string) cache.ETag {
	e, ok := cache.ParseETag(s)
	if !ok {
		f.add(field, "must be an etag, 16 lower-case hexadecimal digits")
	}
	return e
}

// expiry is the oneof expiry of several requests.
type expiry interface {
	GetTtl() *durationpb.Duration
	GetExpireTime() *timestamppb.Timestamp
	GetNever() bool
}

// fresh checks an expiry and returns how long from now the entry is fresh; zero means for ever. neverSet reports that the
// oneof is never.
func (f *fields) fresh(e expiry, neverSet bool) time.Duration {
	most := f.rules.Cache.MaxTTL
	switch {
	case e.GetTtl() != nil:
		return f.duration("ttl", e.GetTtl(), 1, most)
	case e.GetExpireTime() != nil:
		if e.GetExpireTime().CheckValid() != nil {
			f.add("expire_time", "must be a valid time")
			return 0
		}
		d := e.GetExpireTime().AsTime().Sub(f.now())
		if d <= 0 || d > most {
			f.add("expire_time", "must be in the future and at most %s away", policy.Span(most))
		}
		return d
	case neverSet:
		if !e.GetNever() {
			f.add("never", "must be true if set")
		}
		return 0
	}
	return f.rules.Cache.DefaultTTL
}

// jittered shortens a ttl by a random share, up to the namespace's jitter. It leaves expire_time and never as they are.
func (f *fields) jittered(d time.Duration, e expiry, neverSet bool) time.Duration {
	if neverSet || e.GetExpireTime() != nil || f.rules.Cache.Jitter == 0 {
		return d
	}
	off := rand.Float64() * f.rules.Cache.Jitter * float64(d) //nolint:gosec // spreads load, guards nothing
	return max(d-time.Duration(off), time.Millisecond)
}

// entry is what SetRequest, BatchSetItem and FillRequest have in common.
type entry interface {
	expiry
	GetValue() []byte
	GetStaleTtl() *durationpb.Duration
	GetNegative() bool
	GetTags() []string
	GetContentType() string
}

// write checks an entry that is to be written.
func (f *fields) write(e entry, neverSet bool) cache.Write {
	w := cache.Write{
		Value: e.GetValue(), Fresh: f.fresh(e, neverSet), Negative: e.GetNegative(),
		Tags: f.tags(e.GetTags()), ContentType: e.GetContentType(),
		Encrypt: f.rules.Cache.Encrypt,
	}
	if most := f.rules.Cache.MaxValueBytes; len(w.Value) > most {
		f.add("value", "must be at most %d bytes long", most)
	}
	if w.Negative && len(w.Value) > 0 {
		f.add("value", "must be empty if negative is set")
	}
	w.Stale = f.stale(e, w.Fresh, neverSet)
	w.Fresh = f.jittered(w.Fresh, e, neverSet)
	if neverSet && len(w.Tags) > 0 {
		f.add("never", "must not be set together with tags, because invalidations are remembered for a limited time")
	}
	f.text("content_type", w.ContentType, 0, maxContentTypeBytes)
	return w
}

// fence checks the fence of a write.
func (f *fields) fence(fence *cachev1.Fence) *cache.Fence {
	if fence == nil {
		return nil
	}
	f.text("fence.lock_name", fence.GetLockName(), 1, maxLockNameBytes)
	if t := fence.GetFencingToken(); t <= 0 || t > cache.MaxFencingToken {
		f.add("fence.fencing_token", "must be the fencing_token of a lock")
	}
	return &cache.Fence{Lock: fence.GetLockName(), Token: fence.GetFencingToken()}
}

// stale checks stale_ttl and returns how long an entry is kept as stale after it was fresh. The default of the namespace is
// shortened to what the maximum leaves.
func (f *fields) stale(e entry, fresh time.Duration, neverSet bool) time.Duration {
	most := f.rules.Cache.MaxTTL
	asked := e.GetStaleTtl()
	switch {
	case asked == nil && (neverSet || e.GetNegative()):
		return 0
	case asked == nil:
		return max(min(f.rules.Cache.DefaultStaleTTL, most-fresh), 0)
	case asked.GetSeconds() == 0 && asked.GetNanos() == 0:
		return 0
	case asked.CheckValid() == nil && asked.AsDuration() < 0:
		f.add("stale_ttl", "must not be negative")
		return 0
	}
	stale := f.duration("stale_ttl", asked, 1, most)
	switch {
	case neverSet:
		f.add("stale_ttl", "must be unset if never is set")
	case e.GetNegative():
		f.add("stale_ttl", "must be unset if negative is set")
	case fresh+stale > most && stale <= most && fresh <= most:
		f.add("stale_ttl", "must be at most %s together with ttl", policy.Span(most))
	}
	return stale
}

// tags checks tags and drops duplicates.
func (f *fields) tags(tags []string) []string {
	if len(tags) > maxTags {
		f.add("tags", "must have at most %d items", maxTags)
		return nil
	}
	var unique []string
	seen := make(map[string]struct{}, len(tags))
	for i, t := range tags {
		f.text("tags["+strconv.Itoa(i)+"]", t, 1, maxTagBytes)
		if _, dup := seen[t]; !dup {
			seen[t] = struct{}{}
			unique = append(unique, t)
		}
	}
	return unique
}

// condition checks the precondition of a Set.
func (f *fields) condition(r *cachev1.SetRequest) cache.Condition {
	isTrue := func(field string, b bool) {
		if !b {
			f.add(field, "must be true if set")
		}
	}
	switch p := r.GetPrecondition().(type) {
	case *cachev1.SetRequest_IfAbsent:
		isTrue("if_absent", p.IfAbsent)
		return cache.Condition{Kind: cache.IfAbsent}
	case *cachev1.SetRequest_IfPresent:
		isTrue("if_present", p.IfPresent)
		return cache.Condition{Kind: cache.IfPresent}
	case *cachev1.SetRequest_IfMatch:
		return cache.Condition{Kind: cache.IfMatch, ETag: f.etag("if_match", p.IfMatch)}
	case *cachev1.SetRequest_IfNoneMatch:
		return cache.Condition{Kind: cache.IfNoneMatch, ETag: f.etag("if_none_match", p.IfNoneMatch)}
	}
	return cache.Condition{}
}

// pattern checks a glob and returns it in a form that means the same to Redis and to the embedded store. Redis accepts
// incomplete classes and escapes, but the embedded store turns a glob into a regular expression and panics if that is
// invalid.
func (f *fields) pattern(s string, least int) string {
	f.text("pattern", s, least, maxKeyBytes)
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		n := 1
		switch {
		case s[i] == '[':
			n = classLen(s[i:])
		case s[i] == '\\' && i+1 == len(s):
			f.add("pattern", `must not end with \`)
			return s
		case strings.HasPrefix(s[i:], `\\`):
			b.WriteString(`[\\]`) // the embedded store quotes text with \Q and \E, and an E may follow
			i++
			continue
		case s[i] == '\\':
			n = 2
		}
		if n == 0 {
			f.add("pattern", `must have inside [ ] only ASCII characters, ascending ranges, and \ before special characters`)
			return s
		}
		b.WriteString(s[i : i+n])
		i += n - 1
	}
	return b.String()
}

// classLen returns the length of the character class at the beginning of s, zero if it is invalid.
func classLen(s string) int {
	plain := func(c byte) bool { return c < utf8.RuneSelf && strings.IndexByte(`[]\`, c) < 0 }
	i := 1
	if strings.HasPrefix(s, "[^") {
		i = 2
	}
	for first := i; i < len(s); i++ {
		switch c := s[i]; {
		case c == ']' && i > first:
			return i + 1
		case c == '\\' && i+2 < len(s):
			i++
			if e := s[i] | 0x20; e >= utf8.RuneSelf || 'a' <= e && e <= 'z' || '0' <= e && e <= '9' || s[i+1] == '-' {
				return 0
			}
		case !plain(c):
			return 0
		case i+2 < len(s) && s[i+1] == '-':
			if i += 2; !plain(s[i]) || s[i] < c {
				return 0
			}
		}
	}
	return 0
}
