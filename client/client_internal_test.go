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
		t.Fatal(err)
	}
	if err := json.Unmarshal(file, &theirs); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(balancing), &ours); err != nil {
		t.Fatal(err)
	}
	delete(theirs, "methodConfig")
	delete(theirs, "retryThrottling")
	if diff := cmp.Diff(ours, theirs); diff != "" {
		t.Errorf("(-client +file):\n%s", diff)
	}
}
