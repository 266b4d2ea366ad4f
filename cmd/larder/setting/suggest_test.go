package setting

import "testing"

func TestClosest(t *testing.T) {
	t.Parallel()
	names := []string{"GRPC_ADDR", "ADMIN_ADDR", "MAX_VALUE_BYTES", "PPROF", "LOG_LEVEL"}
	for name, want := range map[string]string{
		"GRPC_ADR": "GRPC_ADDR", "GRCP_ADDR": "GRPC_ADDR", "MAX_VALUE_SIZE": "MAX_VALUE_BYTES", "LOGLEVEL": "LOG_LEVEL", "PORT": "", "X": "", "": "",
	} {
		if got := Closest(name, names); got != want {
			t.Errorf("Closest(%q) = %q, want %q", name, got, want)
		}
	}
}
