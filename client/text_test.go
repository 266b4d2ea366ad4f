package client_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"

	"github.com/berthcare/larder/client"
)

const notUTF8 = "a\xff"

// Text that is not UTF-8 cannot be sent. It is the caller's mistake, and the error names every field.
func TestTextThatIsNotUTF8(t *testing.T) {
	t.Parallel()
	c := connect(t, client.Options{Target: serve(t, hit).addr})
	ctx := t.Context()
	for name, tt := range map[string]struct {
		call func() error
		want []string
	}{
		"Key": {func() error { _, err := c.Cache.Get(ctx, notUTF8); return err }, []string{"key"}},
		"Keys": {func() error {
			_, err := c.Cache.BatchGet(ctx, []string{"k", notUTF8, notUTF8}, client.BatchGetOptions{})
			return err
		}, []string{"keys[1]", "keys[2]"}},
		"Items": {func() error {
			_, err := c.Cache.BatchSet(ctx, []client.SetItem{{Key: "k", Options: client.SetOptions{Tags: []string{"t", notUTF8}}}})
			return err
		}, []string{"items[0].tags[1]"}},
		"Token": {func() error {
			_, err := c.Sessions.Validate(ctx, notUTF8, client.ValidateOptions{})
			return err
		}, []string{"session_token"}},
		"UserAgentAndAttributes": {func() error {
			_, _, err := c.Sessions.Create(ctx, "ann", client.CreateOptions{
				Device: client.Device{UserAgent: notUTF8}, Attributes: map[string]string{"a": notUTF8, notUTF8: "b"},
			})
			return err
		}, []string{"attributes", "device.user_agent"}},
		"PrefixOfAWatch": {func() error {
			for _, err := range c.Cache.Watch(ctx, notUTF8) {
				return err
			}
			return nil
		}, []string{"prefixes[0]"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := tt.call()
			var e *client.Error
			if !errors.As(err, &e) || !errors.Is(err, client.ErrInvalid) || e.Reason != "INVALID_FIELD" {
				t.Fatalf("error = %v, want ErrInvalid with the reason INVALID_FIELD", err)
			}
			var got []string
			for _, v := range e.Violations {
				got = append(got, v.Field)
			}
			slices.Sort(got)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("violations (-want +got):\n%s", diff)
			}
			if strings.Contains(err.Error(), notUTF8) {
				t.Errorf("error = %q, want it without the text", err)
			}
		})
	}
}

// A request that the client itself does not send for its size is of the same kind as one that the server refuses.
func TestRequestsThatAreTooLarge(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]client.Options{
		"ForTheClient": {DialOptions: []grpc.DialOption{grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(1 << 10))}},
		"ForTheServer": {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o.Target = serve(t, hit).addr
			_, err := connect(t, o).Cache.Set(t.Context(), "k", make([]byte, 5<<20), client.SetOptions{})
			if !errors.Is(err, client.ErrTooLarge) || errors.Is(err, client.ErrOverloaded) {
				t.Errorf("Set of 5 MiB = %v, want ErrTooLarge alone", err)
			}
		})
	}
}
