package token_test

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
	"github.com/berthcare/larder/store/redistest"
	"github.com/berthcare/larder/store/storetest"
	"github.com/berthcare/larder/store/token"
)

func decoy(i *token.Issue) { i.Decoy = true }

func TestDecoyIsNeverAccepted(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, kind := range kinds {
			i := issue(t, s, namespace, a(kind, "nobody-"+string(kind), decoy))
			expect(t, s, namespace, present(i), token.Incorrect)
			expect(t, s, namespace, present(i, wrong), token.Incorrect)
		}
	})
}

// commands are what Redis runs during a call, sent and called by scripts.
func commands(t *testing.T, server *redistest.Server, call func()) (all [2]map[string]int64) {
	t.Helper()
	monitor := server.StartMonitor(t)
	call()
	all[0], all[1] = monitor.Stop(t)
	for _, background := range []string{"ping", "info", "role", "hello", "client", "echo", "monitor", "cluster"} {
		maps.DeleteFunc(all[0], func(name string, _ int64) bool { return name == background || name == "time" })
	}
	return all
}

// The same calls, for an account that there is and for one that there is not, run the same commands of Redis and have the same
// answers: when a token is issued, at each wrong attempt, in the cooldown, when attempts are spent, and when a subject is locked.
func TestDecoyCostsAndLooksTheSame(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	s := storetest.Open(t, store.Options{Redis: redis.Options{Addrs: []string{server.Addr}, NearCacheBytes: 1 << 20}, Keyring: newKeyring(t, "a")})
	// The account that there is has sessions, which its tokens would end.
	for _, class := range []string{"", "mobile"} {
		createSession(t, s, "n", "ann", class)
	}
	steps := func(kind token.Kind, subject string, change func(*token.Issue)) (answers []any, ran []any) {
		cooled := func(i *token.Issue) {
			i.Limits = limits
			if kind != token.Recovery {
				revoking(i)
			}
		}
		do := func(call func() any) {
			ran = append(ran, commands(t, server, func() { answers = append(answers, call()) }))
		}
		var i token.Issued
		do(func() any {
			i = issue(t, s, "n", a(kind, subject, cooled, change))
			return []any{len(i.ID), len(i.Link), len(i.Code), len(i.RecoveryCodes), i.Locked, i.Cooldown, i.RetryAfter.Round(time.Minute), time.Until(i.ExpiresAt).Round(time.Minute)}
		})
		do(func() any {
			again, err := s.Tokens.Issue(t.Context(), "n", a(kind, subject, cooled, change))
			return []any{len(again.ID), again.Cooldown, again.RetryAfter.Round(time.Minute), err}
		})
		for range 11 {
			do(func() any {
				c := consume(t, s, "n", present(i, wrong, func(p *token.Presented) { p.Source = "ip" }))
				c.RetryAfter = c.RetryAfter.Round(time.Minute)
				return c
			})
		}
		do(func() any {
			r, err := s.Tokens.Inspect(t.Context(), "n", token.Presented{ID: i.ID, Limits: limits})
			return []any{r.Verdict, r.Kind, r.AttemptsLeft, r.RecoveryLeft, r.Purpose, err}
		})
		return answers, ran
	}
	for _, kind := range kinds {
		for _, warm := range []string{"w", "v"} { // the scripts are known
			steps(kind, warm+string(kind), func(*token.Issue) {})
		}
		if err := s.Tokens.ResetSource(t.Context(), "n", "ip"); err != nil {
			t.Fatalf("ResetSource = error %v, want none", err)
		}
		subject := "ann"
		answers, ran := steps(kind, subject, func(*token.Issue) {})
		decoyAnswers, decoyRan := steps(kind, "nobody", decoy)
		if diff := cmp.Diff(answers, decoyAnswers); diff != "" {
			t.Errorf("answers about a %s (-real +decoy):\n%s", kind, diff)
		}
		if diff := cmp.Diff(ran, decoyRan); diff != "" {
			t.Errorf("commands for a %s (-real +decoy):\n%s", kind, diff)
		}
		for _, subject := range []string{"ann", "nobody"} {
			if err := s.Tokens.ResetSubject(t.Context(), "n", subject, purpose); err != nil {
				t.Fatalf("ResetSubject = error %v, want none", err)
			}
		}
	}

	// A recovery code is presented by subject alone, whether or not there is one.
	issue(t, s, "n", a(token.Recovery, "carl", func(i *token.Issue) { i.TTL = 10 * 365 * 24 * time.Hour }))
	guess := func(subject string) (c token.Consumed, ran [2]map[string]int64) {
		ran = commands(t, server, func() {
			c = consume(t, s, "n", token.Presented{Subject: subject, Code: "00000-00000", Purpose: purpose, Limits: limits})
		})
		return c, ran
	}
	for range 2 {
		c, ran := guess("carl")
		none, noneRan := guess("unknown")
		if diff := cmp.Diff(c, none); diff != "" {
			t.Errorf("answers to a wrong recovery code (-real +unknown):\n%s", diff)
		}
		if diff := cmp.Diff(ran, noneRan); diff != "" {
			t.Errorf("commands for a wrong recovery code (-real +unknown):\n%s", diff)
		}
	}
}

// Attempts on a code and on a decoy take turns, and the times of the two are compared by rank: of a pair, either is the slower one
// about as often. A path that differed by a round trip, or by one slow command, would almost always be the slower one.
func TestDecoyTakesTheSameTime(t *testing.T) {
	t.Parallel()
	_, s := storetest.Alone(t)
	many := calm()
	many.Failures, many.Consecutive = 1<<20, 1<<20
	open := func(subject string, changes ...func(*token.Issue)) token.Presented {
		createSession(t, s, "n", "ann", "mobile")
		i := issue(t, s, "n", a(token.Code, subject, append(changes, revoking, func(i *token.Issue) { i.MaxAttempts = 1 << 20 })...))
		return present(i, wrong, func(p *token.Presented) { p.Limits = many })
	}
	genuine, fake := open("ann"), open("nobody", decoy)
	took := func(p token.Presented) time.Duration {
		begin := time.Now()
		expect(t, s, "n", p, token.Incorrect)
		return time.Since(begin)
	}
	var reals, fakes []time.Duration
	for n := range 1500 {
		if n%2 == 0 {
			reals, fakes = append(reals, took(genuine)), append(fakes, took(fake))
		} else {
			fakes, reals = append(fakes, took(fake)), append(reals, took(genuine))
		}
	}
	// The probability that one is slower than the other, after Mann and Whitney; 0.5 if there is no difference.
	slower := 0.0
	sorted := slices.Sorted(slices.Values(fakes))
	for _, d := range reals {
		at, _ := slices.BinarySearch(sorted, d)
		slower += float64(at) / float64(len(sorted))
	}
	slower /= float64(len(reals))
	if math.Abs(slower-0.5) > 0.15 {
		t.Errorf("an attempt on a real code is slower than one on a decoy with probability %.2f, want 0.5 ± 0.15 (medians %v and %v)",
			slower, median(reals), median(fakes))
	}
}

func median(all []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

// What is stored of a decoy looks as what is stored of a token.
func TestDecoyLooksTheSameInRedis(t *testing.T) {
	storetest.Everywhere(t, func(t *testing.T, s *store.Store, namespace string) {
		for _, kind := range kinds {
			shape := func(subject string, changes ...func(*token.Issue)) []string {
				i := issue(t, s, namespace, a(kind, subject, changes...))
				var fields []string
				stored, _ := storetest.Command(t, s, "HGETALL", recordOf(namespace, subject, i.ID)).(map[string]any)
				for name, value := range stored {
					if len(name) > 16 && name[:2] == "c:" {
						name = name[:2]
					}
					fields = append(fields, fmt.Sprint(name, " ", len(fmt.Sprint(value))))
				}
				slices.Sort(fields)
				return fields
			}
			genuine, fake := shape("someone"), shape("nobody1", decoy)
			if diff := cmp.Diff(genuine, fake); diff != "" || len(genuine) < 5 {
				t.Errorf("the record of a %s (-real +decoy):\n%s", kind, diff)
			}
		}
	})
}
