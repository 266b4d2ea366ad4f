package service

import (
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	"github.com/berthcare/larder/store"
)

func (f *fields) subject(s string, least int) string {
	f.text("subject", s, least, maxSubjectBytes)
	return s
}

func (f *fields) sessionID(field, id string) string {
	if !store.ValidSessionID(id) {
		f.add(field, "must be the id of a session")
	}
	return id
}

// timeout returns a session's timeout, which may only be shorter than the server's.
func (f *fields) timeout(field string, d *durationpb.Duration, most time.Duration) time.Duration {
	if d == nil {
		return most
	}
	return f.duration(field, d, minSessionTimeout, most)
}

func (f *fields) attributes(field string, attributes map[string]string) map[string]string {
	if len(attributes) > store.MaxAttributes {
		f.add(field, "must be at most %d", store.MaxAttributes)
		return nil
	}
	size, named := 0, true
	for name, value := range attributes {
		named = named && isAttributeName(name)
		size += len(name) + len(value)
	}
	if !named {
		f.add(field, "must have names of 1 to %d bytes", maxAttributeNameBytes)
	}
	if size > store.MaxAttributeBytes {
		f.add(field, "must be at most %d bytes long together", store.MaxAttributeBytes)
	}
	return attributes
}

func isAttributeName(s string) bool { return len(s) >= 1 && len(s) <= maxAttributeNameBytes }

func (f *fields) device(d *sessionv1.Device) store.Device {
	f.text("device.ip", d.GetIp(), 0, maxIPBytes)
	f.text("device.user_agent", d.GetUserAgent(), 0, maxUserAgentBytes)
	f.text("device.label", d.GetLabel(), 0, maxLabelBytes)
	return store.Device{IP: d.GetIp(), UserAgent: d.GetUserAgent(), Label: d.GetLabel()}
}

func (f *fields) update(r *sessionv1.UpdateSessionRequest) store.SessionUpdate {
	u := store.SessionUpdate{
		Set:    f.attributes("set_attributes", r.GetSetAttributes()),
		Delete: r.GetDeleteAttributes(), ExpectedVersion: r.GetExpectedVersion(),
	}
	if len(r.GetSetAttributes())+len(u.Delete) == 0 {
		f.add("set_attributes", "must hold something, or delete_attributes")
	}
	if len(u.Delete) > store.MaxAttributes {
		f.add("delete_attributes", "must be at most %d", store.MaxAttributes)
	}
	for i, name := range u.Delete {
		field := "delete_attributes[" + strconv.Itoa(i) + "]"
		if !isAttributeName(name) {
			f.add(field, "must be 1 to %d bytes long", maxAttributeNameBytes)
		}
		if _, set := u.Set[name]; set {
			f.add(field, "must not be set as well")
		}
	}
	if u.ExpectedVersion < 0 {
		f.add("expected_version", "must not be negative")
	}
	return u
}

// target is the oneof of that name.
func (f *fields) target(r interface {
	GetSessionId() string
	GetSessionToken() string
},
) store.SessionTarget {
	t := store.SessionTarget{ID: r.GetSessionId(), Token: r.GetSessionToken()}
	if t.ID == "" && t.Token == "" {
		f.add("target", "must be a session_id or a session_token")
	}
	return t
}
