package service

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	"github.com/berthcare/larder/service/policy"
)

func TestValidateSession(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})

	t.Run("WhatIsNoToken", func(t *testing.T) {
		t.Parallel()
		good := a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann"}).SessionToken
		for _, token := range []string{
			"x", "ls1_", good[:len(good)-1], good + "A", "ls2_" + good[4:], good[4:], strings.ToUpper(good), " " + good, strings.Repeat("A", 1<<20), "\x00",
			good[:30] + flip(good[30]) + good[31:], // another secret
			good[:10] + flip(good[10]) + good[11:], // another id
			"ls1_" + flip(good[4]) + good[5:],      // another partition
		} {
			same(t, &sessionv1.ValidateSessionResponse{Outcome: inactiveSession}, a.validate(t, &sessionv1.ValidateSessionRequest{SessionToken: token}))
		}
	})

	t.Run("CostsNothingWhenNear", func(t *testing.T) {
		t.Parallel()
		a := newAPI(t, policy.Limits{})
		token := a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann"}).SessionToken
		reads := func(c sessionv1.Consistency) int64 {
			before := a.redis.CommandCalls(t)
			for range 5 {
				a.validate(t, &sessionv1.ValidateSessionRequest{SessionToken: token, Consistency: c})
			}
			after := a.redis.CommandCalls(t)
			return after["evalsha_ro"] - before["evalsha_ro"]
		}
		a.validate(t, &sessionv1.ValidateSessionRequest{SessionToken: token}) // brings it near, with its subject's epoch
		for c, want := range map[sessionv1.Consistency]int64{
			sessionv1.Consistency_CONSISTENCY_UNSPECIFIED: 0, sessionv1.Consistency_CONSISTENCY_CACHED: 0, sessionv1.Consistency_CONSISTENCY_PRIMARY: 5,
		} {
			if got := reads(c); got != want {
				t.Errorf("Redis reads of 5 validations at %v = %d, want %d", c, got, want)
			}
		}
	})

	t.Run("EndsWhenIdle", func(t *testing.T) {
		t.Parallel()
		token := a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann", IdleTimeout: secs(1)}).SessionToken
		eventually(t, "inactive", func() bool {
			return a.validate(t, &sessionv1.ValidateSessionRequest{SessionToken: token, Touch: sessionv1.Touch_TOUCH_NEVER}).Outcome == inactiveSession
		})
		if a.isActive(t, "", token) {
			t.Error("an ended session is active, want it inactive")
		}
	})

	t.Run("EndsWhateverItsActivity", func(t *testing.T) {
		t.Parallel()
		token := a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann", AbsoluteTimeout: secs(1)}).SessionToken
		eventually(t, "inactive", func() bool {
			return a.validate(t, &sessionv1.ValidateSessionRequest{SessionToken: token, Touch: sessionv1.Touch_TOUCH_FORCE}).Outcome == inactiveSession
		})
	})

	t.Run("Touch", func(t *testing.T) {
		t.Parallel()
		created := a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann", IdleTimeout: secs(20), AbsoluteTimeout: secs(600)})
		began := created.Session.LastActiveAt.AsTime()
		with := func(touch sessionv1.Touch) *sessionv1.Session {
			return a.validate(t, &sessionv1.ValidateSessionRequest{
				SessionToken: created.SessionToken, Touch: touch, Consistency: sessionv1.Consistency_CONSISTENCY_PRIMARY,
			}).Session
		}
		moved := func(touch sessionv1.Touch) *sessionv1.Session {
			var s *sessionv1.Session
			eventually(t, touch.String(), func() bool {
				s = with(touch)
				return s.LastActiveAt.AsTime().After(began)
			})
			return s
		}

		s := moved(sessionv1.Touch_TOUCH_FORCE) // and this very answer tells
		last := s.LastActiveAt.AsTime()
		want := proto.Clone(created.Session).(*sessionv1.Session)
		want.LastActiveAt, want.IdleExpiresAt, want.ExpiresAt = s.LastActiveAt, timestamppb.New(last.Add(20*time.Second)), timestamppb.New(last.Add(20*time.Second))
		same(t, want, s)
		began = last

		// AUTO waits for its interval, and NEVER for ever.
		for with(sessionv1.Touch_TOUCH_NEVER); time.Since(last) < 1100*time.Millisecond; {
			if got := with(sessionv1.Touch_TOUCH_NEVER).LastActiveAt.AsTime(); !got.Equal(last) {
				t.Fatalf("last activity after NEVER = %v, want %v", got, last)
			}
		}
		auto := moved(sessionv1.Touch_TOUCH_AUTO).LastActiveAt.AsTime()
		if auto.Sub(last) < time.Second {
			t.Errorf("AUTO recorded activity after %v, want at least 1 s", auto.Sub(last))
		}
		same(t, timestamppb.New(auto), with(sessionv1.Touch_TOUCH_UNSPECIFIED).LastActiveAt)
	})
}

// flip is another character of base64.
func flip(c byte) string {
	if c == 'A' {
		return "B"
	}
	return "A"
}
