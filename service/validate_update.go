package service

import (
	"strconv"

	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	"github.com/berthcare/larder/store/session"
)

func (f *fields) update(r *sessionv1.UpdateSessionRequest) session.Changes {
	u := session.Changes{
		Set:         f.attributes("set_attributes", r.GetSetAttributes()),
		SetIfAbsent: f.attributes("set_attributes_if_absent", r.GetSetAttributesIfAbsent()),
		Increment:   r.GetIncrementAttributes(), Delete: r.GetDeleteAttributes(), ExpectedVersion: r.GetExpectedVersion(),
	}
	if len(r.GetSetAttributes())+len(r.GetSetAttributesIfAbsent())+len(u.Increment)+len(u.Delete) == 0 {
		f.add("set_attributes", "must hold something, or one of the other changes")
	}
	if len(u.Increment) > session.MaxAttributes {
		f.add("increment_attributes", "must be at most %d", session.MaxAttributes)
	}
	if len(u.Delete) > session.MaxAttributes {
		f.add("delete_attributes", "must be at most %d", session.MaxAttributes)
	}
	f.once(u)
	if u.ExpectedVersion < 0 {
		f.add("expected_version", "must not be negative")
	}
	return u
}

// once checks that no attribute is named by two changes, and the names that are not checked elsewhere.
func (f *fields) once(u session.Changes) {
	const twice = "must not name what another change does"
	for name := range u.SetIfAbsent {
		if _, set := u.Set[name]; set {
			f.add("set_attributes_if_absent", twice)
			break
		}
	}
	named := func(name string) bool {
		_, set := u.Set[name]
		_, absent := u.SetIfAbsent[name]
		return set || absent
	}
	badName, again := false, false
	for name := range u.Increment {
		badName = badName || !isAttributeName(name)
		again = again || named(name)
	}
	if badName {
		f.add("increment_attributes", "must have names of 1 to %d bytes", maxAttributeNameBytes)
	}
	if again {
		f.add("increment_attributes", twice)
	}
	for i, name := range u.Delete {
		field := "delete_attributes[" + strconv.Itoa(i) + "]"
		if !isAttributeName(name) {
			f.add(field, "must be 1 to %d bytes long", maxAttributeNameBytes)
		}
		if _, added := u.Increment[name]; added || named(name) {
			f.add(field, twice)
		}
	}
}

// maxEventTypes is more than there are.
const maxEventTypes = 16

// eventFilter checks which events are asked for, and from where on.
func (f *fields) eventFilter(namespace string, r *sessionv1.WatchSessionEventsRequest) session.EventFilter {
	filter := session.EventFilter{Subject: f.subject(r.GetSubject(), 0)}
	if len(r.GetTypes()) > maxEventTypes {
		f.add("types", "must be at most %d", maxEventTypes)
	}
	for i, t := range r.GetTypes()[:min(len(r.GetTypes()), maxEventTypes)] {
		field := "types[" + strconv.Itoa(i) + "]"
		if t == sessionv1.SessionEventType_SESSION_EVENT_TYPE_UNSPECIFIED {
			f.add(field, "must be set")
		}
		filter.Types = append(filter.Types, eventWord(enum(f, field, t, sessionv1.SessionEventType_name)))
	}
	if !session.ValidResumeToken(namespace, filter.Subject, r.GetResumeToken()) {
		f.add("resume_token", "must be one that a watch of the same namespace and subject has told")
	}
	return filter
}
