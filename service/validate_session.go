package service

import (
	"math"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store/session"
)

// subject checks a subject.
func (f *fields) subject(s string, least int) string {
	f.text("subject", s, least, maxSubjectBytes)
	return s
}

// sessionID checks a session id.
func (f *fields) sessionID(field, id string) string {
	if !session.ValidID(id) {
		f.add(field, "must be a session id")
	}
	return id
}

// timeout checks a session's timeout, which is at most, and if unset equal to, that of the namespace.
func (f *fields) timeout(field string, d *durationpb.Duration, most time.Duration) time.Duration {
	if d == nil {
		return most
	}
	return f.duration(field, d, policy.MinSessionTimeout, most)
}

// attributes checks attributes to be set.
func (f *fields) attributes(field string, attributes map[string]string) map[string]string {
	if len(attributes) > session.MaxAttributes {
		f.add(field, "must have at most %d entries", session.MaxAttributes)
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
	if size > session.MaxAttributeBytes {
		f.add(field, "must have at most %d bytes of names and values in total", session.MaxAttributeBytes)
	}
	return attributes
}

func isAttributeName(s string) bool { return len(s) >= 1 && len(s) <= maxAttributeNameBytes }

// device checks a device.
func (f *fields) device(d *sessionv1.Device) session.Device {
	f.text("device.ip", d.GetIp(), 0, maxIPBytes)
	f.text("device.user_agent", d.GetUserAgent(), 0, maxUserAgentBytes)
	f.text("device.label", d.GetLabel(), 0, maxLabelBytes)
	return session.Device{
		IP: d.GetIp(), UserAgent: d.GetUserAgent(), Label: d.GetLabel(), Class: f.deviceClass("device.class", d.GetClass()),
	}
}

// deviceClass checks a device class, which may be empty.
func (f *fields) deviceClass(field, class string) string {
	ok := len(class) <= maxClassBytes
	for i := 0; ok && i < len(class); i++ {
		c := class[i]
		ok = 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '_' || c == '-'
	}
	if !ok {
		f.add(field, "must be at most %d characters of a-z, 0-9, underscore and dash", maxClassBytes)
	}
	return class
}

// sessionLimits returns the limits of concurrent sessions, which a request can only lower.
func (f *fields) sessionLimits(r interface {
	GetMaxSessions() int32
	GetMaxClassSessions() int32
},
) session.Limits {
	lower := func(field string, n int32, most int) int {
		switch {
		case n == 0:
			return most
		case n < 0 || most > 0 && int(n) > most:
			f.add(field, "must be above zero and at most the server's limit")
		}
		return int(n)
	}
	limits := f.rules.Sessions.Limits
	return session.Limits{
		PerSubject: lower("max_sessions", r.GetMaxSessions(), limits.PerSubject),
		PerClass:   lower("max_class_sessions", r.GetMaxClassSessions(), limits.PerClass),
		Policy:     limits.Policy,
	}
}

// ifSubjectEpoch checks the precondition of a creation or promotion, nil if it is unset.
func (f *fields) ifSubjectEpoch(subject string, epoch *int64) *int64 {
	switch {
	case epoch == nil:
	case subject == "":
		f.add("if_subject_epoch", "must be unset if subject is empty")
	case *epoch < 0:
		f.add("if_subject_epoch", "must not be negative")
	}
	return epoch
}

// current returns the id of the caller's own session, which a list marks; "" if the request names none.
func (f *fields) current(r *sessionv1.ListSubjectSessionsRequest) string {
	if r.GetCurrentSessionToken() == "" {
		return r.GetCurrentSessionId()
	}
	if r.GetCurrentSessionId() != "" {
		f.add("current_session_token", "must be empty if current_session_id is set")
	}
	return session.IDOf(r.GetCurrentSessionToken())
}

// target checks the oneof target, the session that a request is about.
func (f *fields) target(r interface {
	GetSessionId() string
	GetSessionToken() string
},
) session.Target {
	t := session.Target{ID: r.GetSessionId(), Token: r.GetSessionToken()}
	switch {
	case t.ID != "":
		f.sessionID("session_id", t.ID)
	case t.Token == "":
		f.add("target", "must have a session_id or a session_token")
	}
	return t
}

// token checks that a session token is given. A malformed one is no error but the token of no session.
func (f *fields) token(token string) string {
	if token == "" {
		f.add("session_token", "must not be empty")
	}
	return token
}

// validation is what ValidateSessionRequest and BatchValidateSessionsItem have in common.
type validation interface {
	GetSessionToken() string
	GetTouch() sessionv1.Touch
	GetConsistency() sessionv1.Consistency
	GetRequire() *sessionv1.Requirement
}

// touches maps the API's values of touch to those of the store.
var touches = map[sessionv1.Touch]session.Touch{
	sessionv1.Touch_TOUCH_UNSPECIFIED: session.TouchAuto,
	sessionv1.Touch_TOUCH_AUTO:        session.TouchAuto,
	sessionv1.Touch_TOUCH_NEVER:       session.TouchNever,
	sessionv1.Touch_TOUCH_FORCE:       session.TouchForce,
}

// validation checks one validation.
func (f *fields) validation(r validation) session.Validation {
	v := session.Validation{
		TouchInterval: f.rules.Sessions.TouchInterval,
		Token:         f.token(r.GetSessionToken()),
		Touch:         touches[enum(f, "touch", r.GetTouch(), sessionv1.Touch_name)],
		Near:          enum(f, "consistency", r.GetConsistency(), sessionv1.Consistency_name) != sessionv1.Consistency_CONSISTENCY_PRIMARY,
	}
	if require := r.GetRequire(); require != nil {
		v.MinAAL = f.aal("require.min_aal", require.GetMinAal())
		if require.GetMaxAuthAge() != nil {
			v.MaxAuthAge = f.exactDuration("require.max_auth_age", require.GetMaxAuthAge(), 1, math.MaxInt64)
		}
	}
	return v
}

// validations checks the items of a batch.
func (f *fields) validations(items []*sessionv1.BatchValidateSessionsItem) []session.Validation {
	if len(items) < 1 || len(items) > maxValidations {
		f.add("items", "must have 1 to %d items", maxValidations)
		return nil
	}
	vs := make([]session.Validation, len(items))
	for i, item := range items {
		f.prefix = "items[" + strconv.Itoa(i) + "]."
		vs[i] = f.validation(item)
	}
	f.prefix = ""
	return vs
}

// aal checks an authentication assurance level.
func (f *fields) aal(field string, aal int32) int {
	if aal < 0 || aal > maxAAL {
		f.add(field, "must be 0 to %d", maxAAL)
	}
	return int(aal)
}

// assurance checks how a subject was authenticated. An authentication up to maxClockSkew in the future counts as now.
func (f *fields) assurance(field string, a *sessionv1.Assurance) session.Assurance {
	if a == nil {
		return session.Assurance{}
	}
	assured := session.Assurance{AAL: f.aal(field+".aal", a.GetAal()), AMR: f.methods(field+".amr", a.GetAmr())}
	if at := a.GetAuthenticatedAt(); at != nil {
		assured.AuthenticatedAt = at.AsTime()
		// The clocks of the caller and of Redis may differ by maxClockSkew. A time before 1970 is a mistake.
		if at.CheckValid() != nil || assured.AuthenticatedAt.After(f.now().Add(maxClockSkew)) || at.GetSeconds() <= 0 {
			f.add(field+".authenticated_at", "must be a valid time and not in the future")
		}
		if now := f.now(); assured.AuthenticatedAt.After(now) {
			assured.AuthenticatedAt = now
		}
	}
	return assured
}

// methods checks names of authentication methods and drops duplicates.
func (f *fields) methods(field string, amr []string) []string {
	if len(amr) > session.MaxMethods {
		f.add(field, "must have at most %d items", session.MaxMethods)
		return nil
	}
	var unique []string
	for i, m := range amr {
		ok := len(m) >= 1 && len(m) <= maxMethodBytes
		for j := 0; ok && j < len(m); j++ {
			c := m[j]
			ok = 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-'
		}
		if !ok {
			f.add(field+"["+strconv.Itoa(i)+"]", "must be 1 to %d characters of a-z, 0-9, dot, underscore and dash", maxMethodBytes)
		}
		if !slices.Contains(unique, m) {
			unique = append(unique, m)
		}
	}
	return unique
}
