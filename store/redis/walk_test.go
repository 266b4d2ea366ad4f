package redis

import "testing"

func FuzzPosition(f *testing.F) {
	f.Add("", uint32(0), uint64(0), uint64(0))
	f.Add("AAAAAAAAAAAAAAAAAAAAAAAAAAA", uint32(0), uint64(1), uint64(1<<63))
	f.Add("AAAAAAAAAAAAAAAAAAAAAAAAAAB", uint32(0), uint64(0), uint64(0))
	f.Add("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", uint32(0), uint64(0), uint64(0))
	f.Add("AAAAAAAAAAAAAAAAAA\nAAAAAAAAA", uint32(0), uint64(0), uint64(0))
	f.Add("garbage", uint32(1), uint64(1<<63), uint64(7))
	f.Fuzz(func(t *testing.T, token string, walk uint32, node, cursor uint64) {
		p := position{node, cursor}
		if got, ok := parsePosition(p.token(walk), walk); !ok || got != p {
			t.Fatalf("parsePosition of the token of %v = %v, %v, want the same position", p, got, ok)
		}
		if _, ok := parsePosition(p.token(walk), walk+1); ok {
			t.Fatalf("parsePosition accepted the token of walk %d in walk %d, want a refusal", walk, walk+1)
		}
		if got, ok := parsePosition(token, walk); ok && token != "" && got.token(walk) != token {
			t.Fatalf("parsePosition(%q) = %v, whose token is %q, want the same token", token, got, got.token(walk))
		}
	})
}
