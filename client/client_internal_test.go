package client

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestServiceConfigBalancesLikeThisClient(t *testing.T) {
	t.Parallel()
	var theirs, ours map[string]any
	file, err := os.ReadFile("service_config.json")
	if err != nil {
		t.Fatalf("reading service_config.json: error %v, want none", err)
	}
	if err := json.Unmarshal(file, &theirs); err != nil {
		t.Fatalf("service_config.json: error %v, want valid JSON", err)
	}
	if err := json.Unmarshal([]byte(balancing), &ours); err != nil {
		t.Fatalf("the service config of the client: error %v, want valid JSON", err)
	}
	delete(theirs, "methodConfig")
	delete(theirs, "retryThrottling")
	if diff := cmp.Diff(ours, theirs); diff != "" {
		t.Errorf("the balancing of service_config.json (-want, the client's, +got):\n%s", diff)
	}
}
