package service

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	"github.com/berthcare/larder/service/policy"
)

func TestRevokeSubjectSessions(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	type request = sessionv1.RevokeSubjectSessionsRequest
	revoke := func(r *request) int64 {
		t.Helper()
		return must[*sessionv1.RevokeSubjectSessionsResponse](t)(a.session.RevokeSubjectSessions(t.Context(), r)).RevokedCount
	}
	var tokens, ids []string
	for range 3 {
		c := a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann"})
		tokens, ids = append(tokens, c.SessionToken), append(ids, c.Session.SessionId)
	}
	bob := a.create(t, &sessionv1.CreateSessionRequest{Subject: "bob"})
	elsewhere := a.create(t, &sessionv1.CreateSessionRequest{Namespace: "other", Subject: "ann"}).SessionToken
	active := func() (n []bool) {
		for _, token := range tokens {
			n = append(n, a.isActive(t, "", token))
		}
		return n
	}
	active() // and now they are near

	for _, tt := range []struct {
		request *request
		count   int64
		active  []bool
	}{
		{&request{Subject: "nobody"}, 0, []bool{true, true, true}},
		{&request{Subject: "ann", ExceptSessionId: ids[1]}, 2, []bool{false, true, false}},
		{&request{Subject: "ann", ExceptSessionId: ids[1]}, 0, []bool{false, true, false}},
		{&request{Subject: "ann", ExceptSessionId: bob.Session.SessionId}, 1, []bool{false, false, false}},
		{&request{Subject: "ann"}, 0, []bool{false, false, false}},
	} {
		if n := revoke(tt.request); n != tt.count {
			t.Errorf("%v ended %d sessions, want %d", tt.request, n, tt.count)
		}
		if diff := cmp.Diff(tt.active, active()); diff != "" {
			t.Errorf("active sessions after %v (-want +got):\n%s", tt.request, diff)
		}
	}
	if !a.isActive(t, "", bob.SessionToken) || !a.isActive(t, "other", elsewhere) {
		t.Error("a session of another subject or namespace is inactive, want it active")
	}
	if token := a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann"}).SessionToken; !a.isActive(t, "", token) {
		t.Error("a session created afterwards is inactive, want it active")
	}
}

func TestListSubjectSessions(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	type request = sessionv1.ListSubjectSessionsRequest
	list := func(r *request) *sessionv1.ListSubjectSessionsResponse {
		t.Helper()
		return must[*sessionv1.ListSubjectSessionsResponse](t)(a.session.ListSubjectSessions(t.Context(), r))
	}
	same(t, &sessionv1.ListSubjectSessionsResponse{}, list(&request{Subject: "ann"}))

	const n = 7
	sessions := make([]*sessionv1.Session, n)
	for i := range sessions { // created in the reverse order of their ends
		sessions[n-1-i] = a.create(t, &sessionv1.CreateSessionRequest{
			Subject: "ann", IdleTimeout: durationpb.New(time.Duration(n-i) * time.Minute), Attributes: map[string]string{"n": fmt.Sprint(i)},
			Device: &sessionv1.Device{Label: fmt.Sprint("device ", i)},
		}).Session
	}
	a.create(t, &sessionv1.CreateSessionRequest{Subject: "bob"})
	a.create(t, &sessionv1.CreateSessionRequest{Namespace: "other", Subject: "ann"})
	a.create(t, &sessionv1.CreateSessionRequest{})
	current := sessions[4].SessionId
	sessions[4].Current = true

	for size := int32(0); size <= n+1; size++ {
		var all []*sessionv1.Session
		r := &request{Subject: "ann", PageSize: size, CurrentSessionId: current}
		for page := 0; ; page++ {
			got := list(r)
			if size > 0 && len(got.Sessions) > int(size) {
				t.Errorf("a page has %d sessions, want at most %d", len(got.Sessions), size)
			}
			all = append(all, got.Sessions...)
			if r.PageToken = got.NextPageToken; r.PageToken == "" || page > n {
				break
			}
		}
		same(t, sessions, all)
	}

	sessions[4].Current = false
	for _, nobody := range []string{"", "malformed", flip(current[0]) + current[1:]} {
		same(t, sessions, list(&request{Subject: "ann", CurrentSessionId: nobody}).Sessions)
	}

	token := list(&request{Subject: "ann", PageSize: 1}).NextPageToken
	for _, r := range []*request{
		{Subject: "bob", PageToken: token},
		{Namespace: "other", Subject: "ann", PageToken: token},
		{Subject: "ann", PageToken: token[1:]},
		{Subject: "ann", PageToken: "?"},
	} {
		_, err := a.session.ListSubjectSessions(t.Context(), r)
		wantAnswer(t, err, noToken)
	}

	must[*sessionv1.RevokeSessionResponse](t)(a.session.RevokeSession(t.Context(), &sessionv1.RevokeSessionRequest{
		Target: &sessionv1.RevokeSessionRequest_SessionId{SessionId: sessions[2].SessionId},
	}))
	same(t, slices.Delete(slices.Clone(sessions), 2, 3), list(&request{Subject: "ann"}).Sessions)
}

func TestListSubjectSessionsBoundsItsPages(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	for range 205 {
		a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann"})
	}
	for size, want := range map[int32]int{0: 50, 199: 199, 200: 200, 201: 200, 1 << 30: 200} {
		page := must[*sessionv1.ListSubjectSessionsResponse](t)(a.session.ListSubjectSessions(t.Context(), &sessionv1.ListSubjectSessionsRequest{Subject: "ann", PageSize: size}))
		if len(page.Sessions) != want || page.NextPageToken == "" {
			t.Errorf("page_size %d: page has %d sessions and the token %q, want %d and a token", size, len(page.Sessions), page.NextPageToken, want)
		}
	}
}

func TestCreateSessionIfSubjectEpoch(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	epoch := func() int64 {
		return must[*sessionv1.GetSubjectResponse](t)(a.session.GetSubject(t.Context(), &sessionv1.GetSubjectRequest{Subject: "ann"})).SubjectEpoch
	}
	create := func(class string, epoch int64) error {
		_, err := a.session.CreateSession(t.Context(), &sessionv1.CreateSessionRequest{
			Subject: "ann", IfSubjectEpoch: &epoch, Device: &sessionv1.Device{Class: class},
		})
		return err
	}
	changed := answer{Code: codes.Aborted, Reason: "SUBJECT_EPOCH_CHANGED"}
	for _, class := range []string{"", "mobile"} {
		before := epoch()
		if err := create("mobile", before); err != nil {
			t.Errorf("CreateSession at the present epoch = %v, want nil", err)
		}
		revoked := must[*sessionv1.RevokeSubjectSessionsResponse](t)(a.session.RevokeSubjectSessions(t.Context(),
			&sessionv1.RevokeSubjectSessionsRequest{Subject: "ann", DeviceClass: class}))
		after := epoch()
		if revoked.RevokedCount != 1 || revoked.SubjectEpoch != after || after <= before {
			t.Errorf("RevokeSubjectSessions = %v, GetSubject = %d, want one ended and an epoch above %d from both", revoked, after, before)
		}
		wantAnswer(t, create("mobile", before), changed)
		if err := create("mobile", after); err != nil {
			t.Errorf("CreateSession at the new epoch = %v, want nil", err)
		}
		if class != "" { // another class is not concerned
			if err := create("web", before); err != nil {
				t.Errorf("CreateSession of another class at the old epoch = %v, want nil", err)
			}
		}
		must[*sessionv1.RevokeSubjectSessionsResponse](t)(a.session.RevokeSubjectSessions(t.Context(), &sessionv1.RevokeSubjectSessionsRequest{Subject: "ann"}))
	}
	if n := must[*sessionv1.GetSubjectResponse](t)(a.session.GetSubject(t.Context(), &sessionv1.GetSubjectRequest{Subject: "nobody"})).SubjectEpoch; n != 0 {
		t.Errorf("epoch of a subject without sessions = %d, want 0", n)
	}
}

func TestSessionsByDeviceClass(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	var made []*sessionv1.CreateSessionResponse
	for i := range 4 {
		made = append(made, a.create(t, &sessionv1.CreateSessionRequest{Subject: "ann", Device: &sessionv1.Device{Class: []string{"web", "mobile"}[i%2]}}))
	}
	list := func(r *sessionv1.ListSubjectSessionsRequest) (current, other []string) {
		t.Helper()
		r.Subject = "ann"
		for _, s := range must[*sessionv1.ListSubjectSessionsResponse](t)(a.session.ListSubjectSessions(t.Context(), r)).Sessions {
			if s.Current {
				current = append(current, s.SessionId)
			} else {
				other = append(other, s.SessionId)
			}
		}
		return current, other
	}
	for _, r := range []*sessionv1.ListSubjectSessionsRequest{
		{DeviceClass: "mobile", CurrentSessionToken: made[1].SessionToken}, {DeviceClass: "mobile", CurrentSessionId: made[1].Session.SessionId},
	} {
		if current, other := list(r); !cmp.Equal(current, []string{made[1].Session.SessionId}) || !cmp.Equal(other, []string{made[3].Session.SessionId}) {
			t.Errorf("list of the class: current = %v, other = %v, want %s and %s", current, other, made[1].Session.SessionId, made[3].Session.SessionId)
		}
	}
	if current, other := list(&sessionv1.ListSubjectSessionsRequest{CurrentSessionToken: "malformed"}); len(current) != 0 || len(other) != 4 {
		t.Errorf("list with a malformed token: current = %v, other = %v, want none and 4", current, other)
	}
	revoked := must[*sessionv1.RevokeSubjectSessionsResponse](t)(a.session.RevokeSubjectSessions(t.Context(), &sessionv1.RevokeSubjectSessionsRequest{
		Subject: "ann", DeviceClass: "mobile", ExceptSessionId: made[1].Session.SessionId,
	}))
	if revoked.RevokedCount != 1 {
		t.Errorf("RevokeSubjectSessions ended %d sessions, want 1", revoked.RevokedCount)
	}
	for i, c := range made {
		if a.isActive(t, "", c.SessionToken) != (i != 3) {
			t.Errorf("session %d is active: %t, want %t", i, i == 3, i != 3)
		}
	}
}
