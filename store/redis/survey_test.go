package redis

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	nodeA = "aaaa 127.0.0.1:1@10001,host-a myself,master - 0 1 3 connected 0-99 200"
	nodeB = "bbbb 127.0.0.1:2@10002 master - 0 1 2 connected 100-199 201-16383"
	nodeC = "cccc 127.0.0.1:3@10003 slave bbbb 0 1 2 connected"
)

func viewOf(t *testing.T, lines ...string) view {
	t.Helper()
	v, err := parseView(strings.Join(lines, "\n") + "\n")
	if err != nil {
		t.Fatalf("parseView = %v, want no error", err)
	}
	return v
}

func TestParseView(t *testing.T) {
	t.Parallel()
	v := viewOf(t, nodeA+" [7->-bbbb] [8-<-bbbb]", nodeB, strings.Replace(nodeC, "slave", "slave,fail?", 1))
	want := map[string]viewedNode{
		"aaaa": {addr: "127.0.0.1:1", primary: true, epoch: 3, slots: [][2]int{{0, 99}, {200, 200}}},
		"bbbb": {addr: "127.0.0.1:2", primary: true, epoch: 2, slots: [][2]int{{100, 199}, {201, 16383}}},
		"cccc": {addr: "127.0.0.1:3", suspected: true, epoch: 2},
	}
	if diff := cmp.Diff(want, v.nodes, cmp.AllowUnexported(viewedNode{})); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
	if v.self != "aaaa" || !v.moving {
		t.Errorf("self = %q, moving = %v, want aaaa and true", v.self, v.moving)
	}
	for _, text := range []string{
		"", nodeB, "aaaa 127.0.0.1:1@1 myself,master - 0 1 x connected", "aaaa 127.0.0.1:1@1 myself,master - 0 1",
		nodeA + " 5-x", nodeA + " 0-16384", nodeA + " -1",
	} {
		if _, err := parseView(text); err == nil {
			t.Errorf("parseView(%q) = no error, want one", text)
		}
	}
}

// TestWhole: a node is cut off if it does not see most of the primaries that have slots.
func TestWhole(t *testing.T) {
	t.Parallel()
	third := "dddd 127.0.0.1:4@10004 master - 0 1 4 connected 300"
	down := func(line string) string { return strings.Replace(line, " master", " master,fail?", 1) }
	for want, lines := range map[bool][][]string{
		true:  {{nodeA}, {nodeA, nodeB}, {nodeA, nodeB, down(third)}, {nodeA, nodeB, nodeC}},
		false: {{nodeA, down(nodeB)}, {nodeA, down(nodeB), down(third)}},
	} {
		for _, l := range lines {
			if got := viewOf(t, l...).whole(); got != want {
				t.Errorf("whole = %v, want %v: %q", got, want, l)
			}
		}
	}
}

// TestCombine: the highest epoch has the word, and the sum tells owners apart.
func TestCombine(t *testing.T) {
	t.Parallel()
	a, b := viewOf(t, nodeA, nodeB), viewOf(t, strings.Replace(nodeA, "myself,", "", 1), strings.Replace(nodeB, "master", "myself,master", 1))
	same := combine([]view{a, b})
	want := map[string][][2]int{"aaaa": {{0, 99}, {200, 200}}, "bbbb": {{100, 199}, {201, 16383}}}
	if diff := cmp.Diff(want, same.slots); diff != "" {
		t.Errorf("slots (-want +got):\n%s", diff)
	}
	if got := combine([]view{b}).sum; got != same.sum {
		t.Error("sum of one view differs from that of two that agree, want the same")
	}
	// A replica has taken over what the first node believes to have.
	taken := viewOf(t, strings.Replace(nodeA, "myself,master", "master,fail", 1), nodeB, "cccc 127.0.0.1:3@10003 myself,master - 0 1 4 connected 0-99")
	for _, views := range [][]view{{a, taken}, {taken, a}} {
		got := combine(views)
		want := map[string][][2]int{"aaaa": {{200, 200}}, "bbbb": {{100, 199}, {201, 16383}}, "cccc": {{0, 99}}}
		if diff := cmp.Diff(want, got.slots); diff != "" {
			t.Errorf("slots after a takeover (-want +got):\n%s", diff)
		}
		if got.sum == same.sum {
			t.Error("sum after a takeover is the same, want another")
		}
	}
	// The same owners with another epoch may have lost the slots meanwhile.
	if got := combine([]view{viewOf(t, strings.Replace(nodeA, " 3 connected", " 5 connected", 1), nodeB)}); got.sum == same.sum {
		t.Error("sum with another epoch is the same, want another")
	}
}
