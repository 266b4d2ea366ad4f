package client_test

import (
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/resolver/manual"

	"github.com/berthcare/larder/client"
)

func TestTargetThatIsAURLIsRefused(t *testing.T) {
	t.Parallel()
	for target, want := range map[string]string{
		"http://larder:50051":                `write "larder:50051"`,
		"HTTP://larder:50051/":               `write "larder:50051"`,
		"http://larder":                      `write "larder:50051"`,
		"http://":                            `write "larder:50051"`,
		"http:///larder":                     `write "larder:50051"`,
		"http://[::1]:50051":                 `write "[::1]:50051"`,
		"https://larder.example:443/?a=b":    `write "larder.example:443" and set Options.TLS`,
		"https://larder.example?a=b":         `write "larder.example:50051" and set Options.TLS`,
		"grpc://larder:50051":                `write "larder:50051"`,
		"grpcs://larder:50051":               `write "larder:50051" and set Options.TLS`,
		"redis://user:hunter2@larder:6379/1": `write "larder:6379"`,
		"dns://larder:50051":                 `names a DNS server and no host; write "larder:50051"`,
	} {
		c, err := client.New(client.Options{Target: target})
		if err == nil {
			_ = c.Close()
			t.Errorf("New with Target %q = nil error, want one that says %s", target, want)
		} else if !strings.HasSuffix(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("New with Target %q = error %q, want one that ends with %s and shows no password", target, err, want)
		}
	}
}

func TestTargetOfGRPCIsAccepted(t *testing.T) {
	t.Parallel()
	for target, options := range map[string][]grpc.DialOption{
		"larder:50051":                   nil,
		"larder":                         nil,
		"http:50051":                     nil, // a host of that name
		"[::1]:50051":                    nil,
		"dns:larder:50051":               nil,
		"dns:///larder:50051":            nil,
		"dns://8.8.8.8/larder:50051":     nil,
		"passthrough:///larder:50051":    nil,
		"unix:larder.sock":               nil,
		"unix:///run/larder.sock":        nil,
		"consul://127.0.0.1:8500/larder": nil, // whose resolver may be registered later
		"test:///larder":                 {grpc.WithResolvers(manual.NewBuilderWithScheme("test"))},
		"xds:///larder":                  nil,
	} {
		c, err := client.New(client.Options{Target: target, DialOptions: options})
		if err != nil {
			t.Errorf("New with Target %q = error %v, want none", target, err)
			continue
		}
		_ = c.Close()
	}
}
