package service

import (
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// A told is a call of a hand-made history, by numbers of milliseconds.
type told struct {
	replica, begin, end int
	in                  sessionCall
	out                 sessionAnswer
	lost                bool
}

func (c told) recorded() sessionRecorded {
	r := sessionRecorded{
		Replica: c.replica, In: c.in, Out: c.out,
		Begin: time.Duration(c.begin) * time.Millisecond, End: time.Duration(c.end) * time.Millisecond,
	}
	if c.in.ID == "" && c.in.Op != opCreate {
		r.In.ID = "s"
	}
	if c.lost {
		r.Unknown, r.Attempts, r.Out = true, 1, sessionAnswer{}
	}
	return r
}

// sessionVerdict is what the checkers say of a history of one session.
type sessionVerdict struct {
	wrong  bool
	behind int
	order  porcupine.CheckResult
}

// The checkers tell a history of a session that makes sense from one that does not.
func TestTheCheckersFindBrokenSessionHistories(t *testing.T) {
	t.Parallel()
	shown := func(version int64, a string) sessionAnswer {
		return sessionAnswer{ID: "s", Active: true, Version: version, Attributes: sessionAttributes{a}}
	}
	created := shown(1, "")
	created.Token = "A"
	begun := told{0, 0, 1, sessionCall{Op: opCreate, Class: "mobile"}, created, false}
	read := func(replica, begin int, near bool, token string, out sessionAnswer) told {
		return told{replica, begin, begin + 1, sessionCall{Op: opValidate, Token: token, Near: near}, out, false}
	}
	inactive := sessionAnswer{}
	revoke := func(replica, begin, end int) told {
		return told{replica, begin, end, sessionCall{Op: opRevoke}, sessionAnswer{Active: true}, false}
	}
	revokeAll := func(class, except string) told {
		return told{0, 2, 3, sessionCall{Op: opRevokeSubject, ID: "-", Class: class, Except: except}, sessionAnswer{}, false}
	}
	set := func(begin, end int, value string, version int64) told {
		return told{0, begin, end, sessionCall{Op: opUpdate, Change: changeSet, Value: value}, sessionAnswer{Active: true, Version: version}, false}
	}
	add := func(begin, end int, sum string, version int64) told {
		in := sessionCall{Op: opUpdate, Change: changeIncrement, Name: 3, Delta: 1}
		return told{0, begin, end, in, sessionAnswer{Active: true, Version: version, Attributes: sessionAttributes{3: sum}}, false}
	}
	change := func(op string, begin, end int, token, next string, noGrace bool) told {
		out := shown(1, "")
		out.Token = next
		return told{0, begin, end, sessionCall{Op: op, Token: token, NoGrace: noGrace}, out, false}
	}
	rotate := func(begin, end int, token, next string) told { return change(opRotate, begin, end, token, next, true) }
	lost := func(c told) told { c.lost = true; return c }
	list := func(begin int, sessions ...sessionAnswer) told {
		return told{1, begin, begin + 1, sessionCall{Op: opList, ID: "-"}, sessionAnswer{Each: sessions}, false}
	}
	const near, primary = true, false
	ok, illegal := porcupine.Ok, porcupine.Illegal
	good := sessionVerdict{false, 0, ok}
	for name, h := range map[string]struct {
		calls []told
		want  sessionVerdict
	}{
		"active":                                     {[]told{read(1, 5, primary, "A", shown(1, ""))}, good},
		"active beside its revocation":               {[]told{revoke(0, 2, 9), read(1, 5, primary, "A", shown(1, ""))}, good},
		"revoked and inactive":                       {[]told{revoke(0, 2, 3), read(1, 5, primary, "A", inactive)}, good},
		"revoked and active":                         {[]told{revoke(0, 2, 3), read(1, 5, primary, "A", shown(1, ""))}, sessionVerdict{true, 1, illegal}},
		"revoked and listed":                         {[]told{revoke(0, 2, 3), list(5, shown(1, ""))}, sessionVerdict{true, 1, illegal}},
		"active and not listed":                      {[]told{list(5)}, sessionVerdict{false, 0, illegal}},
		"revoked and updated":                        {[]told{revoke(0, 2, 3), set(5, 6, "x", 2)}, sessionVerdict{true, 1, illegal}},
		"revoked elsewhere, near within the bound":   {[]told{revoke(0, 2, 3), read(1, 13, near, "A", shown(1, ""))}, sessionVerdict{false, 1, ok}},
		"revoked elsewhere, near after the bound":    {[]told{revoke(0, 2, 3), read(1, 14, near, "A", shown(1, ""))}, sessionVerdict{true, 1, ok}},
		"revoked here, near at once":                 {[]told{revoke(0, 2, 3), read(0, 5, near, "A", shown(1, ""))}, sessionVerdict{true, 1, ok}},
		"inactive for no reason":                     {[]told{read(1, 5, near, "A", inactive)}, sessionVerdict{false, 0, illegal}},
		"active again":                               {[]told{lost(revoke(0, 2, 3)), read(1, 5, primary, "A", inactive), read(1, 7, primary, "A", shown(1, ""))}, sessionVerdict{true, 1, illegal}},
		"a lost revocation that came late":           {[]told{lost(revoke(0, 2, 3)), read(1, 5, primary, "A", shown(1, "")), read(1, 7, primary, "A", inactive)}, good},
		"the subject revoked and active":             {[]told{revokeAll("", ""), read(1, 5, primary, "A", shown(1, ""))}, sessionVerdict{true, 1, illegal}},
		"the subject revoked, near here":             {[]told{revokeAll("", ""), read(0, 5, near, "A", shown(1, ""))}, sessionVerdict{true, 1, ok}},
		"the class revoked and active":               {[]told{revokeAll("mobile", ""), read(1, 5, primary, "A", shown(1, ""))}, sessionVerdict{true, 1, illegal}},
		"another class revoked":                      {[]told{revokeAll("web", ""), read(1, 5, primary, "A", shown(1, ""))}, good},
		"another class revoked and inactive":         {[]told{revokeAll("web", ""), read(1, 5, primary, "A", inactive)}, sessionVerdict{false, 0, illegal}},
		"the others revoked":                         {[]told{revokeAll("", "s"), read(1, 5, primary, "A", shown(1, ""))}, good},
		"the others revoked and inactive":            {[]told{revokeAll("", "s"), read(1, 5, primary, "A", inactive)}, sessionVerdict{false, 0, illegal}},
		"an update that is there":                    {[]told{set(2, 3, "x", 2), read(1, 5, primary, "A", shown(2, "x"))}, good},
		"an update that is lost":                     {[]told{set(2, 3, "x", 2), read(1, 5, primary, "A", shown(2, ""))}, sessionVerdict{false, 0, illegal}},
		"an update behind":                           {[]told{set(2, 3, "x", 2), read(1, 5, near, "A", shown(1, ""))}, sessionVerdict{false, 1, ok}},
		"an update too far behind":                   {[]told{set(2, 3, "x", 2), read(1, 14, near, "A", shown(1, ""))}, sessionVerdict{true, 1, ok}},
		"an update behind its own replica":           {[]told{set(2, 3, "x", 2), read(0, 5, near, "A", shown(1, ""))}, sessionVerdict{true, 1, ok}},
		"one version with two contents":              {[]told{set(2, 3, "x", 2), read(1, 5, primary, "A", shown(2, "x")), read(1, 7, near, "A", shown(2, "y"))}, sessionVerdict{true, 0, ok}},
		"an increment that two have made once":       {[]told{add(2, 5, "1", 2), add(2, 5, "1", 2)}, sessionVerdict{false, 0, illegal}},
		"a lost increment that counted":              {[]told{lost(add(2, 3, "", 0)), add(4, 5, "2", 3)}, good},
		"a rotated token without grace":              {[]told{rotate(2, 3, "A", "B"), read(1, 5, primary, "A", shown(1, ""))}, sessionVerdict{true, 1, illegal}},
		"a rotated token without grace, near, bound": {[]told{rotate(2, 3, "A", "B"), read(1, 14, near, "A", shown(1, ""))}, sessionVerdict{true, 1, ok}},
		"a rotated token within its grace":           {[]told{change(opRotate, 2, 3, "A", "B", false), read(1, 5, primary, "A", shown(1, ""))}, good},
		"two rotated tokens within their grace":      {[]told{change(opRotate, 2, 3, "A", "B", false), change(opRotate, 4, 5, "B", "C", false), read(1, 6, primary, "A", shown(1, "")), change(opRotate, 8, 9, "A", "C", false)}, good},
		"a rotated token before reauthentication":    {[]told{change(opRotate, 2, 3, "A", "B", false), change(opReauth, 4, 5, "B", "C", false), read(1, 6, primary, "A", shown(1, ""))}, sessionVerdict{false, 0, illegal}},
		"a token of before reauthentication":         {[]told{change(opReauth, 2, 3, "A", "B", false), read(1, 5, primary, "A", shown(1, ""))}, sessionVerdict{true, 1, illegal}},
		"the new token":                              {[]told{rotate(2, 3, "A", "B"), read(1, 5, near, "B", shown(1, ""))}, good},
		"the new token is inactive":                  {[]told{rotate(2, 3, "A", "B"), read(1, 5, near, "B", inactive)}, sessionVerdict{false, 0, illegal}},
		"two successors of one token":                {[]told{change(opRotate, 2, 5, "A", "B", false), change(opRotate, 2, 5, "A", "C", false)}, sessionVerdict{false, 0, illegal}},
		"a lost successor that is told again":        {[]told{lost(change(opRotate, 2, 3, "A", "", false)), change(opRotate, 4, 5, "A", "B", false), read(1, 7, primary, "B", shown(1, ""))}, good},
	} {
		var calls []sessionRecorded
		for _, c := range append([]told{begun}, h.calls...) {
			calls = append(calls, c.recorded())
		}
		calls = bySession(calls)["s"]
		wrong, behind := returned(calls, 10*time.Millisecond)
		order := porcupine.CheckOperationsTimeout(sessionModel(), operations(atOnce(calls), sessionReads), time.Minute)
		if got := (sessionVerdict{len(wrong) > 0, behind, order}); got != h.want {
			t.Errorf("%s: verdict = %+v, want %+v: %v", name, got, h.want, wrong)
		}
	}
}

// A login that was told its subject's epoch meets every revocation since.
func TestTheCheckersFindBrokenLogins(t *testing.T) {
	t.Parallel()
	epoch := int64(1)
	login := func(fenced bool) sessionRecorded {
		r := told{0, 6, 7, sessionCall{Op: opCreate, Class: "mobile", Epoch: &epoch}, sessionAnswer{Fenced: fenced, Active: !fenced}, false}.recorded()
		r.In.AskedBegin, r.In.AskedEnd = time.Millisecond, 2*time.Millisecond
		return r
	}
	revoke := func(begin, end int, class string) sessionRecorded {
		return told{1, begin, end, sessionCall{Op: opRevokeSubject, Class: class}, sessionAnswer{}, false}.recorded()
	}
	for name, c := range map[string]struct {
		calls []sessionRecorded
		wrong bool
	}{
		"nothing revoked":                   {[]sessionRecorded{login(false)}, false},
		"refused for nothing":               {[]sessionRecorded{login(true)}, true},
		"revoked before":                    {[]sessionRecorded{revoke(0, 0, ""), login(false)}, false},
		"revoked before, and refused":       {[]sessionRecorded{revoke(0, 0, ""), login(true)}, true},
		"revoked since":                     {[]sessionRecorded{revoke(3, 4, ""), login(true)}, false},
		"revoked since, and let in":         {[]sessionRecorded{revoke(3, 4, ""), login(false)}, true},
		"its class revoked, and let in":     {[]sessionRecorded{revoke(3, 4, "mobile"), login(false)}, true},
		"another class revoked":             {[]sessionRecorded{revoke(3, 4, "web"), login(false)}, false},
		"another class revoked, refused":    {[]sessionRecorded{revoke(3, 4, "web"), login(true)}, true},
		"revoked beside the login":          {[]sessionRecorded{revoke(3, 9, ""), login(false)}, false},
		"revoked beside, and refused":       {[]sessionRecorded{revoke(3, 9, ""), login(true)}, false},
		"perhaps revoked late, and refused": {[]sessionRecorded{told{1, 0, 0, sessionCall{Op: opRevokeSubject}, sessionAnswer{}, true}.recorded(), login(true)}, false},
	} {
		if wrong := fences(c.calls); len(wrong) > 0 != c.wrong {
			t.Errorf("%s: wrong logins = %v, want some: %t", name, wrong, c.wrong)
		}
	}
}
