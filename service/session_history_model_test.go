package service

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// The operations of session histories. A batch and a list are taken apart before they are checked.
const (
	opCreate        = "create"
	opValidate      = "validate"
	opBatch         = "batch validate"
	opGetByID       = "get by id"
	opList          = "list"
	opUpdate        = "update"
	opRotate        = "rotate"
	opReauth        = "reauthenticate"
	opRevoke        = "revoke"
	opRevokeSubject = "revoke subject"
)

// sessionAttributes are the attributes a to d of a session; empty means that it has none of that name.
type sessionAttributes [4]string

// The changes of an attribute.
const (
	changeSet         = "set"
	changeSetIfAbsent = "set if absent"
	changeDelete      = "delete"
	changeIncrement   = "increment"
)

// A sessionCall is what a caller asks of one session, or of all of a subject.
type sessionCall struct {
	Op string
	// ID is the session that is meant. Token is how it is named, empty for by its ID.
	ID, Token string
	// Near allows an answer from memory.
	Near bool
	// Forced has activity recorded.
	Forced bool
	// NoGrace says that a rotated token is dead at once.
	NoGrace bool
	// Class is that of the new session, or of those to revoke or list, where empty means all. Except is spared.
	Class, Except string
	// Change is of the attribute with the number Name.
	Change string
	Name   int
	Value  string
	Delta  int64
	// Version is what an update expects, or that of nothing.
	Version int64
	// Epoch is what a login knew of its subject, from a question that began and ended then; nil for nothing.
	Epoch                *int64
	AskedBegin, AskedEnd time.Duration
	// Each are the tokens of a batch.
	Each []sessionCall
}

func sessionReads(c sessionCall) bool {
	return slices.Contains([]string{opValidate, opBatch, opGetByID, opList}, c.Op)
}

// A sessionAnswer is what the caller is told.
type sessionAnswer struct {
	// ID is that of a session that was created or listed, Token the one to use from now on.
	ID, Token string
	// Active says that the session was found active, and that what was asked for was done.
	Active     bool
	Version    int64
	Attributes sessionAttributes
	// Mismatch says that the session had another version, Fenced that a login came too late.
	Mismatch, Fenced bool
	// Each are those of a batch, in order, or of a list. Failed is one of which nothing is known.
	Each   []sessionAnswer
	Failed bool
}

// A sessionState is one session at one moment. A token that nobody was told is empty.
type sessionState struct {
	Made, Ended bool
	Token       string
	// Good are the superseded tokens within their grace, each between bars: a string, so that states compare.
	Good       string
	Version    int64
	Attributes sessionAttributes
}

// accepts reports whether the session is active and what it was named by is good.
func (s sessionState) accepts(token string) bool {
	return s.Made && !s.Ended && (token == "" || token == s.Token || strings.Contains(s.Good, "|"+token+"|"))
}

// shows reports whether an answer is what the session is.
func (s sessionState) shows(a sessionAnswer) bool {
	return a.Version == s.Version && a.Attributes == s.Attributes
}

// step returns the states that a session can be in after a call that was answered so.
func (s sessionState) step(c sessionCall, out answered[sessionAnswer]) []sessionState {
	a, known, accepted := out.Out, out.Known, s.accepts(c.Token)
	if !accepted && c.Op != opCreate {
		return sessionStates(s, !known || !a.Active && !a.Mismatch)
	}
	if c.Op == opRevokeSubject {
		s.Ended = true
		return sessionStates(s, true)
	}
	if known && !a.Active && !a.Mismatch {
		return nil
	}
	switch c.Op {
	case opCreate:
		return sessionStates(sessionState{Made: true, Token: a.Token, Version: a.Version, Attributes: a.Attributes}, !s.Made)
	case opUpdate:
		return s.update(c, out)
	case opRotate:
		return s.rotate(c, out)
	case opReauth:
		after := s
		after.Token, after.Good = a.Token, ""
		return sessionStates(after, !known || s.shows(a))
	case opRevoke:
		s.Ended = true
		return sessionStates(s, true)
	default:
		return sessionStates(s, s.shows(a))
	}
}

func (s sessionState) rotate(c sessionCall, out answered[sessionAnswer]) []sessionState {
	a, after := out.Out, s
	switch {
	case c.Token == s.Token:
		if after.Token, after.Good = a.Token, ""; !c.NoGrace {
			after.Good = s.Good + "|" + c.Token + "|"
		}
	case s.Token == "": // and now it is known
		after.Token = a.Token
	case out.Known && a.Token != s.Token:
		return nil
	}
	return sessionStates(after, !out.Known || s.shows(a))
}

func (s sessionState) update(c sessionCall, out answered[sessionAnswer]) []sessionState {
	a := out.Out
	if c.Version != 0 && c.Version != s.Version {
		return sessionStates(s, !out.Known || a.Mismatch && a.Version == s.Version)
	}
	after := s
	value := &after.Attributes[c.Name]
	switch {
	case c.Change == changeSet, c.Change == changeSetIfAbsent && *value == "":
		*value = c.Value
	case c.Change == changeDelete:
		*value = ""
	case c.Change == changeIncrement:
		n, _ := strconv.ParseInt(*value, 10, 64)
		*value = strconv.FormatInt(n+c.Delta, 10)
	}
	if after != s {
		after.Version++
	}
	told := c.Change != changeIncrement || a.Attributes[c.Name] == *value
	return sessionStates(after, !out.Known || !a.Mismatch && a.Version == after.Version && told)
}

func sessionStates(s sessionState, ok bool) []sessionState {
	if !ok {
		return nil
	}
	return []sessionState{s}
}

// sessionModel is the model of one session, which is not made yet to begin with.
func sessionModel() porcupine.Model {
	m := porcupine.NondeterministicModel{
		Init: func() []any { return []any{sessionState{}} },
		Step: func(state, in, out any) (after []any) {
			for _, s := range state.(sessionState).step(in.(sessionCall), out.(answered[sessionAnswer])) {
				after = append(after, s)
			}
			return after
		},
	}
	return m.ToModel()
}

type sessionRecorded = recorded[sessionCall, sessionAnswer]

// bySession takes the calls of one subject apart: to each session come its own, and what a revocation or a list of the
// whole subject means to it. It leaves out what ended before the session was begun.
func bySession(calls []sessionRecorded) map[string][]sessionRecorded {
	sessions := make(map[string][]sessionRecorded)
	made := make(map[string]sessionRecorded)
	for _, r := range calls {
		if r.In.Op == opCreate && r.Out.ID != "" {
			made[r.Out.ID] = r
		}
	}
	for _, r := range calls {
		switch r.In.Op {
		case opCreate:
			if r.Out.ID != "" {
				sessions[r.Out.ID] = append(sessions[r.Out.ID], r)
			}
		case opBatch:
			for i, in := range r.In.Each {
				if one := r; !r.Out.Each[i].Failed {
					one.In, one.Out = in, r.Out.Each[i]
					sessions[in.ID] = append(sessions[in.ID], one)
				}
			}
		case opList, opRevokeSubject:
			for id, m := range made {
				if r.End < m.Begin && r.Attempts == 0 || r.In.Class != "" && r.In.Class != m.In.Class || r.In.Except == id {
					continue
				}
				one := r
				one.In.ID = id
				if i := slices.IndexFunc(r.Out.Each, func(a sessionAnswer) bool { return a.ID == id }); i >= 0 {
					one.Out = r.Out.Each[i]
				}
				sessions[id] = append(sessions[id], one)
			}
		default:
			sessions[r.In.ID] = append(sessions[r.In.ID], r)
		}
	}
	return sessions
}

// atOnce are the calls that must fit one order. What memory says of an active session may be behind; that it is not
// active is always the primary's word.
func atOnce(calls []sessionRecorded) []sessionRecorded {
	return slices.DeleteFunc(slices.Clone(calls), func(r sessionRecorded) bool { return r.In.Near && r.Out.Active })
}

// An end is the moment by which something is known to be over: the session, or one token of it.
type end struct {
	sessionRecorded
	token string // empty for the session
	// write says that it was a change, of which its own replica knows at once.
	write bool
}

// ends returns what the answers about one session say is over.
func ends(calls []sessionRecorded) (found []end) {
	made := calls[slices.IndexFunc(calls, func(r sessionRecorded) bool { return r.In.Op == opCreate })]
	for _, r := range calls {
		in, a := r.In, r.Out
		switch {
		case r.Unknown, a.Mismatch, in.Op == opCreate:
		case in.Op == opRevokeSubject:
			if made.End < r.Begin {
				found = append(found, end{r, "", true})
			}
		case in.Op == opRevoke && a.Active:
			found = append(found, end{r, "", true})
		case !a.Active && made.End < r.Begin:
			found = append(found, end{r, in.Token, in.Op == opRevoke})
		case a.Active && (in.Op == opReauth || in.Op == opRotate && in.NoGrace):
			found = append(found, end{r, in.Token, true})
		}
	}
	return found
}

// returned returns what is wrong with the active answers about one session: none may come after its end or that of its
// token has been told, except from the memory of another replica for as long as the bound, nor be behind what was told of
// its attributes. It also returns how many were behind as they may be.
func returned(calls []sessionRecorded, bound time.Duration) (wrong []string, behind int) {
	over := ends(calls)
	contents := make(map[int64]sessionAttributes)
	for _, r := range calls {
		if r.Unknown || !r.Out.Active || r.In.Op == opRevoke || r.In.Op == opRevokeSubject {
			continue
		}
		late := false
		judge := func(of sessionRecorded, write bool, what string) {
			if of.End >= r.Begin {
				return
			}
			late = true
			if !r.In.Near || write && of.Replica == r.Replica || r.Begin-of.End > bound {
				wrong = append(wrong, fmt.Sprintf("%+v comes %v after %s: %+v", r, r.Begin-of.End, what, of))
			}
		}
		for _, e := range over {
			if e.token == "" || e.token == r.In.Token {
				judge(e.sessionRecorded, e.write, "the end")
			}
		}
		for _, of := range calls {
			if !of.Unknown && of.Out.Version > r.Out.Version && (of.Out.Active || of.Out.Mismatch) {
				judge(of, of.In.Op == opUpdate && !of.Out.Mismatch, "a change")
			}
		}
		if late {
			behind++
		}
		if r.In.Op == opUpdate {
			continue
		}
		if content, seen := contents[r.Out.Version]; seen && content != r.Out.Attributes {
			wrong = append(wrong, fmt.Sprintf("%+v shows another version %d than %v", r, r.Out.Version, content))
		}
		contents[r.Out.Version] = r.Out.Attributes
	}
	return wrong, behind
}

// fences returns what is wrong with the logins of one subject: none may succeed if its sessions were revoked after the
// login had asked for the epoch, and none fail if they were not.
func fences(calls []sessionRecorded) (wrong []string) {
	for _, r := range calls {
		if r.In.Op != opCreate || r.In.Epoch == nil || r.Unknown {
			continue
		}
		excused := false
		for _, v := range calls {
			if v.In.Op != opRevokeSubject || v.In.Class != "" && v.In.Class != r.In.Class {
				continue
			}
			if !r.Out.Fenced && !v.Unknown && v.Begin > r.In.AskedEnd && v.End < r.Begin {
				wrong = append(wrong, fmt.Sprintf("%+v should have met %+v", r, v))
			}
			excused = excused || v.Begin < r.End && (v.End > r.In.AskedBegin || v.Attempts > 0)
		}
		if r.Out.Fenced && !excused {
			wrong = append(wrong, fmt.Sprintf("%+v was refused, and nothing was revoked", r))
		}
	}
	return wrong
}

// sortedIDs returns the sessions in a fixed order.
func sortedIDs(sessions map[string][]sessionRecorded) []string {
	return slices.Sorted(maps.Keys(sessions))
}
