package service

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"

	sessionv1 "github.com/berthcare/larder/gen/larder/session/v1"
	"github.com/berthcare/larder/service/policy"
)

// What a person types after grpcurl -d, in this order, and what the answer holds.
func TestRequestsAsJSON(t *testing.T) {
	t.Parallel()
	a := newAPI(t, policy.Limits{})
	vars := &sessionv1.CreateSessionResponse{Session: &sessionv1.Session{}}
	for _, tt := range []struct{ rpc, request, want string }{
		{"Set", `{"key": "user:7", "value": "aGVsbG8=", "ttl": "60s", "stale_ttl": "0.5s", "tags": ["users"], "content_type": "text/plain"}`, `{"outcome": "SET_OUTCOME_STORED"}`},
		{"Set", `{"key": "user:7", "value": "aGVsbG8=", "never": true, "ifAbsent": true}`, `{"outcome": "SET_OUTCOME_NOT_STORED"}`},
		{"Get", `{"key": "user:7"}`, `{"outcome": "GET_OUTCOME_HIT", "value": "aGVsbG8=", "source": "SOURCE_REDIS", "staleTtl": "0.500s", "contentType": "text/plain"}`},
		{"Get", `{"key": "user:8", "consistency": "CONSISTENCY_PRIMARY"}`, `{"outcome": "GET_OUTCOME_MISS"}`},
		{"Touch", `{"key": "user:7", "expireTime": "2999-01-01T00:00:00Z", "mode": "TOUCH_MODE_EXTEND_ONLY"}`, `INVALID`},
		{"Touch", `{"key": "user:7", "ttl": "3600s", "mode": "TOUCH_MODE_EXTEND_ONLY"}`, `{"outcome": "TOUCH_OUTCOME_TOUCHED"}`},
		{"Increment", `{"key": "visits", "delta": 5, "initial": "9007199254740993", "ttl": "60s", "max": "9223372036854775807"}`, `{"outcome": "INCREMENT_OUTCOME_INCREMENTED", "value": "9007199254740998"}`},
		{"BatchSet", `{"items": [{"key": "a", "value": "YQ==", "ttl": "1.5s"}, {"key": "b", "negative": true}]}`, `{}`},
		{"BatchGet", `{"keys": ["b", "c"]}`, `{}`},
		{"BatchDelete", `{"keys": ["a", "c"]}`, `{}`},
		{"ListKeys", `{"pattern": "user:*", "page_size": 10}`, `{"keys": ["user:7"]}`},
		{"Delete", `{"namespace": "default", "key": "user:7"}`, `{"outcome": "DELETE_OUTCOME_DELETED"}`},
		{"DeleteMatching", `{"pattern": "*"}`, `{"deletedCount": "2", "done": true}`},
		{"CreateSession", `{"subject": "ann", "attributes": {"role": "nurse"}, "idle_timeout": "900s", "device": {"ip": "10.0.0.1", "label": "Ann's phone"}}`, `{}`},
		{"ValidateSession", `{"session_token": "$TOKEN", "touch": "TOUCH_FORCE"}`, `{"outcome": "VALIDATE_SESSION_OUTCOME_ACTIVE"}`},
		{"ValidateSession", `{"session_token": "ls1_x"}`, `{"outcome": "VALIDATE_SESSION_OUTCOME_INACTIVE"}`},
		{"ValidateSession", `{"session_token": "$TOKEN", "require": {"min_aal": 2, "max_auth_age": "300s"}}`, `{"outcome": "VALIDATE_SESSION_OUTCOME_STEP_UP_REQUIRED"}`},
		{"BatchValidateSessions", `{"items": [{"session_token": "ls1_x"}]}`, `{}`},
		{"RotateSession", `{"session_token": "$TOKEN"}`, `{"outcome": "ROTATE_SESSION_OUTCOME_ROTATED"}`},
		{"PromoteSession", `{"session_token": "$TOKEN", "subject": "ann", "assurance": {"aal": 1, "amr": ["pwd"]}}`, `{"outcome": "PROMOTE_SESSION_OUTCOME_NOT_ANONYMOUS"}`},
		{"ReauthenticateSession", `{"session_token": "ls1_x", "aal": 2, "amr": ["otp"], "reset_timeouts": true}`, `{"outcome": "REAUTHENTICATE_SESSION_OUTCOME_INACTIVE"}`},
		{"GetSession", `{"session_id": "$ID"}`, `{"outcome": "GET_SESSION_OUTCOME_ACTIVE"}`},
		{"UpdateSession", `{"session_id": "$ID", "set_attributes": {"ward": "3"}, "delete_attributes": ["role"], "expected_version": 1}`, `{"outcome": "UPDATE_SESSION_OUTCOME_UPDATED", "version": "2"}`},
		{"ListSubjectSessions", `{"subject": "ann", "current_session_id": "$ID"}`, `{}`},
		{"RevokeSession", `{"session_token": "$TOKEN"}`, `{"outcome": "REVOKE_SESSION_OUTCOME_REVOKED"}`},
		{"RevokeSubjectSessions", `{"subject": "ann"}`, `{}`},
		{"Consume", `{"subject": "ann", "cost": 2, "limits": [{"inline": {"name": "login", "capacity": 5, "period": "60s", "on_failure": "FAILURE_POLICY_FAIL_CLOSED"}}]}`, `{"outcome": "CONSUME_OUTCOME_ALLOWED", "granted": "2"}`},
		{"BatchConsume", `{"items": [{"subject": "ann", "limits": [{"inline": {"capacity": "5", "period": "1.5s"}}]}]}`, `{}`},
		{"Peek", `{"subject": "ann", "limits": [{"inline": {"name": "login", "capacity": 5, "period": "60s"}}]}`, `{"outcome": "CONSUME_OUTCOME_ALLOWED"}`},
		{"Refund", `{"subject": "ann", "limits": [{"inline": {"name": "login", "capacity": 5, "period": "60s"}}]}`, `{}`},
		{"Reserve", `{"subject": "ann", "ttl": "30s", "limits": [{"inline": {"capacity": 5, "period": "60s"}}]}`, `{"outcome": "CONSUME_OUTCOME_ALLOWED", "granted": "1"}`},
		{"Commit", `{"reservation_id": "lr1_AAAAAAAAAAAAAAAAAAAAAAFhAmd-", "cost": 3}`, `{"outcome": "SETTLE_OUTCOME_NOT_RESERVED"}`},
		{"Cancel", `{"reservation_id": "lr1_AAAAAAAAAAAAAAAAAAAAAAFhAmd-"}`, `{"outcome": "SETTLE_OUTCOME_NOT_RESERVED"}`},
		{"Reset", `{"subject": "ann", "names": ["login"]}`, `{"reset": true}`},
	} {
		m := methodOf(t, tt.rpc)
		req := newMessage(t, m.Input())
		body := strings.NewReplacer("$TOKEN", vars.SessionToken, "$ID", vars.Session.SessionId).Replace(tt.request)
		if err := protojson.Unmarshal([]byte(body), req); err != nil {
			t.Fatalf("request %s %s = %v, want valid JSON of the request", tt.rpc, tt.request, err)
		}
		resp, err := a.call(t.Context(), t, m, req)
		if tt.want == "INVALID" {
			wantInvalid(t, req, err, "expire_time")
			continue
		}
		if err != nil {
			t.Fatalf("%s %s = %v, want nil", tt.rpc, tt.request, err)
		}
		if created, ok := resp.(*sessionv1.CreateSessionResponse); ok {
			vars = created
		}
		b, err := protojson.Marshal(resp)
		if err != nil {
			t.Fatalf("Marshal = %v, want nil", err)
		}
		var got, want map[string]any
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatalf("Unmarshal of %s = %v, want nil", b, err)
		}
		if err := json.Unmarshal([]byte(tt.want), &want); err != nil {
			t.Fatalf("Unmarshal of %s = %v, want nil", tt.want, err)
		}
		for name := range got { // only what is said above
			if _, said := want[name]; !said {
				delete(got, name)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", tt.rpc, tt.request, diff)
		}
	}
}
