package setting

import "testing"

func TestDialAddr(t *testing.T) {
	t.Parallel()
	for listen, want := range map[string]string{
		":50051": "127.0.0.1:50051", "0.0.0.0:1": "127.0.0.1:1", "[::]:1": "[::1]:1", "10.0.0.1:1": "10.0.0.1:1", "localhost:1": "localhost:1", "[::1]:1": "[::1]:1",
	} {
		if got, err := DialAddr(listen); err != nil || got != want {
			t.Errorf("DialAddr(%q) = %q, %v; want %q", listen, got, err, want)
		}
	}
	for _, addr := range []string{"", "localhost", "::1", "a:b:c"} {
		if got, err := DialAddr(addr); err == nil {
			t.Errorf("DialAddr(%q) = %q, want an error", addr, got)
		}
	}
}

func TestIsAddr(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]bool{
		":50051": true, "127.0.0.1:0": true, "[::1]:65535": true, "cache.example:1": true,
		"": false, "50051": false, "localhost": false, "localhost:http": false, "localhost:65536": false, "localhost:": false, "::1": false,
	} {
		if got := IsAddr(addr); got != want {
			t.Errorf("IsAddr(%q) = %v, want %v", addr, got, want)
		}
	}
}
