package service

import (
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/berthcare/larder/store"
	"github.com/berthcare/larder/store/redis"
)

// registered returns the names of the services in the registry, sorted.
func registered() (names []string) {
	for _, desc := range Descriptors() {
		names = append(names, desc.ServiceName)
	}
	slices.Sort(names)
	return names
}

// What proto/ defines and gen/ holds is served.
func TestEveryServiceOfTheAPIIsRegistered(t *testing.T) {
	t.Parallel()
	var want []string
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			if name := file.Services().Get(i).FullName(); strings.HasPrefix(string(name), "larder.") {
				want = append(want, string(name))
			}
		}
		return true
	})
	slices.Sort(want)
	if diff := cmp.Diff(want, registered()); diff != "" || len(want) == 0 {
		t.Errorf("services of the registry, of which %d are defined (-want +got):\n%s", len(want), diff)
	}
}

// All that a service needs besides its handlers follows from its line in the registry.
func TestRegisteredServicesAreComplete(t *testing.T) {
	t.Parallel()
	m := NewMetrics()
	st := must[*store.Store](t)(store.New(store.Options{Redis: redis.Options{Mode: redis.Embedded, Observer: m}}))
	t.Cleanup(st.Close)
	if err := st.Redis.Connect(t.Context()); err != nil {
		t.Fatalf("Connect = %v, want nil", err)
	}
	a := &api{running: serve(t, New(st, m, Options{Reflection: true, Logger: slog.New(slog.DiscardHandler)}))}
	eventually(t, "ready", a.health.Ready)

	for _, service := range registered() {
		state, err := a.live.Check(t.Context(), &healthv1.HealthCheckRequest{Service: service})
		if err != nil || state.GetStatus() != serving {
			t.Errorf("health of %s = %v, %v, want %v", service, state.GetStatus(), err, serving)
		}
	}
	reflected := reflectedServices(t, a.running)
	for _, service := range registered() {
		if !slices.Contains(reflected, service) {
			t.Errorf("reflection lists %q, want %s among them", reflected, service)
		}
	}

	series := callSeries(t, m)
	repeatable := idempotentMethods()
	for _, method := range methods() {
		name := "/" + string(method.Parent().FullName()) + "/" + string(method.Name())
		for _, family := range []string{"grpc_server_started_total", "grpc_server_handled_total OK", "grpc_server_handling_seconds"} {
			if n, ok := series[family+" "+name]; !ok || n != 0 {
				t.Errorf("%s of %s = %v (exists: %t), want 0 before the first call", family, name, n, ok)
			}
		}
		options, _ := method.Options().(*descriptorpb.MethodOptions)
		if options == nil || options.IdempotencyLevel == nil {
			t.Errorf("%s has no idempotency_level, want one", name)
		}
		if want := options.GetIdempotencyLevel() != descriptorpb.MethodOptions_IDEMPOTENCY_UNKNOWN; repeatable[name] != want {
			t.Errorf("%s is retried: %t, want %t by its idempotency_level", name, repeatable[name], want)
		}
		if _, err := a.call(t.Context(), t, method, newMessage(t, method.Input())); status.Code(err) == codes.Unimplemented {
			t.Errorf("%s = %v, want a handler", name, err)
		}
	}
}

// reflectedServices asks a server for its services as grpcurl does.
func reflectedServices(t testing.TB, r *running) (names []string) {
	t.Helper()
	talk, err := reflectionv1.NewServerReflectionClient(r.conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatalf("ServerReflectionInfo = %v, want nil", err)
	}
	ask := &reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}
	if err := talk.Send(ask); err != nil {
		t.Fatalf("Send = %v, want nil", err)
	}
	answer, err := talk.Recv()
	if err != nil {
		t.Fatalf("Recv = %v, want the list of services", err)
	}
	for _, service := range answer.GetListServicesResponse().GetService() {
		names = append(names, service.GetName())
	}
	return names
}

// callSeries returns the values of the metrics of calls by "family method", or "family code method" where there is a code.
func callSeries(t testing.TB, m *Metrics) map[string]float64 {
	t.Helper()
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatalf("Gather = %v, want nil", err)
	}
	series := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			labels := map[string]string{}
			for _, l := range metric.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if labels["grpc_method"] == "" {
				continue
			}
			name := family.GetName() + " "
			if code := labels["grpc_code"]; code != "" {
				name += code + " "
			}
			name += "/" + labels["grpc_service"] + "/" + labels["grpc_method"]
			series[name] = metric.GetCounter().GetValue() + float64(metric.GetHistogram().GetSampleCount())
		}
	}
	if len(series) == 0 {
		t.Fatalf("%d families have no label grpc_method, want those of calls to", len(families))
	}
	return series
}
