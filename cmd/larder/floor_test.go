package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"

	"github.com/berthcare/larder/cmd/larder/bench"
	"github.com/berthcare/larder/service"
)

// The floor of the benchmark serves every service of the registry, so that a new one can be measured beside it.
func TestFloorServesEveryService(t *testing.T) {
	t.Parallel()
	names := func(descriptors []*grpc.ServiceDesc) (names []string) {
		for _, d := range descriptors {
			names = append(names, d.ServiceName)
		}
		return names
	}
	if diff := cmp.Diff(names(service.Descriptors()), names(bench.FloorServices())); diff != "" {
		t.Errorf("the services of the floor differ from the registry's (-want +got):\n%s", diff)
	}
}
