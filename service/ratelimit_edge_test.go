package service

import (
	"strings"

	ratelimitv1 "github.com/berthcare/larder/gen/larder/ratelimit/v1"
)

// endedReservation is the id of a reservation that is not there: 16 bytes, the subject "a" and the GCRA limit "~".
const endedReservation = "lr1_AAAAAAAAAAAAAAAAAAAAAAFhAmd-"

const (
	minute   = `period {seconds: 60}`
	oneLimit = `limits {inline {capacity: 9 ` + minute + `}}`
)

// rateLimitEdges are the edges of the requests of RateLimitService.
func rateLimitEdges() (bad, good [][3]string) {
	for _, rpc := range []string{"Consume", "Peek", "Refund", "Reserve"} {
		for _, b := range [][2]string{
			{oneLimit, "subject"},
			{`subject: "ann\000" ` + oneLimit, "subject"},
			{`subject: ` + quoted(257) + oneLimit, "subject"},
			{`subject: "ann"`, "limits"},
			{`subject: "ann" ` + numbered(9, `limits {inline {name: "n%d" capacity: 9 `+minute+`}}`), "limits"},
			{`subject: "ann" limits {}`, "limits[0]"},
			{`subject: "ann" limits {rule: "unknown"}`, "limits[0].rule"},
			{`subject: "ann" limits {rule: ""}`, "limits[0].rule"},
			{`subject: "ann" ` + oneLimit + oneLimit, "limits[1]"},
			{`subject: "ann" ` + oneLimit + ` cost: -1`, "cost"},
			{`subject: "ann" ` + oneLimit + ` cost: 1099511627777`, "cost"},
		} {
			bad = append(bad, [3]string{rpc, b[0], b[1]})
		}
	}
	for inline, field := range map[string]string{
		`capacity: -1 ` + minute:                                                          "capacity",
		`capacity: 1099511627777 ` + minute:                                               "capacity",
		`capacity: 1`:                                                                     "period",
		`capacity: 1 period {}`:                                                           "period",
		`capacity: 1 period {nanos: 999999}`:                                              "period",
		`capacity: 1 period {seconds: 31622401}`:                                          "period",
		`capacity: 1 period {seconds: 1 nanos: -1}`:                                       "period",
		`capacity: 1 burst: -1 ` + minute:                                                 "burst",
		`capacity: 1 burst: 1099511627777 ` + minute:                                      "burst",
		`capacity: 0 burst: 1 ` + minute:                                                  "burst",
		`capacity: 1 burst: 11 period {seconds: 31536000}`:                                "burst",
		`capacity: 1 burst: 1 algorithm: ALGORITHM_FIXED_WINDOW ` + minute:                "burst",
		`capacity: 1 burst: 1 algorithm: ALGORITHM_SLIDING_WINDOW ` + minute:              "burst",
		`capacity: 1 algorithm: 4 ` + minute:                                              "algorithm",
		`capacity: 1 algorithm: -1 ` + minute:                                             "algorithm",
		`capacity: 1 alignment: ALIGNMENT_EPOCH ` + minute:                                "alignment",
		`capacity: 1 algorithm: ALGORITHM_FIXED_WINDOW alignment: 4 ` + minute:            "alignment",
		`capacity: 1 algorithm: ALGORITHM_FIXED_WINDOW alignment: 3 period {seconds: 61}`: "period",
		`capacity: 1 on_failure: 4 ` + minute:                                             "on_failure",
		`capacity: 1 redis_timeout {} ` + minute:                                          "redis_timeout",
		`capacity: 1 redis_timeout {nanos: 999999} ` + minute:                             "redis_timeout",
		`capacity: 1 redis_timeout {nanos: 50000001} ` + minute:                           "redis_timeout",
		`capacity: 1 redis_timeout {seconds: -1} ` + minute:                               "redis_timeout",
		`capacity: 1 redis_timeout {seconds: 1 nanos: -1} ` + minute:                      "redis_timeout",
		`name: "Upper" capacity: 1 ` + minute:                                             "name",
		`name: "with:colon" capacity: 1 ` + minute:                                        "name",
		`name: ` + quoted(64) + ` capacity: 1 ` + minute:                                  "name",
	} {
		bad = append(bad, [3]string{"Consume", `subject: "ann" limits {inline {` + inline + `}}`, "limits[0].inline." + field})
	}
	bad = append(bad, [][3]string{
		{"Consume", `subject: "ann" limits {subject: ` + quoted(257) + ` inline {capacity: 1 ` + minute + `}}`, "limits[0].subject"},
		{"Consume", `subject: "ann" limits {subject: "all\000" inline {capacity: 1 ` + minute + `}}`, "limits[0].subject"},
		{"Consume", `subject: "ann" request_id: "r" limits {subject: "all" inline {capacity: 1 ` + minute + `}}`, "limits[0].subject"},
		{"Refund", `subject: "ann" request_id: "r" limits {subject: "all" inline {capacity: 1 ` + minute + `}}`, "limits[0].subject"},
		{"Reserve", `subject: "ann" limits {subject: "all" inline {capacity: 1 ` + minute + `}}`, "limits[0].subject"},
		{"Consume", `subject: "ann" ` + oneLimit + ` request_id: ` + quoted(129), "request_id"},
		{"Refund", `subject: "ann" ` + oneLimit + ` request_id: "r\000"`, "request_id"},
		{"Refund", `subject: "ann" ` + oneLimit + ` cost: 0`, "cost"},
		{"Reserve", `subject: "ann" ` + oneLimit + ` ttl {}`, "ttl"},
		{"Reserve", `subject: "ann" ` + oneLimit + ` ttl {seconds: 86400 nanos: 1}`, "ttl"},
		{"BatchConsume", "", "items"},
		{"BatchConsume", times(101, `items {subject: "ann" `+oneLimit+`}`), "items"},
		{"BatchConsume", `items {subject: "ann" ` + oneLimit + `} items {` + oneLimit + `}`, "items[1].subject"},
		{"BatchConsume", `items {subject: "ann" limits {inline {capacity: 1}}}`, "items[0].limits[0].inline.period"},
		{"BatchConsume", `items {subject: "ann" cost: -1 ` + oneLimit + `}`, "items[0].cost"},
		{"Commit", "", "reservation_id"},
		{"Commit", `reservation_id: "$RESERVATION" cost: -1`, "cost"},
		{"Commit", `reservation_id: "$RESERVATION" cost: 1099511627777`, "cost"},
		{"Cancel", "", "reservation_id"},
		{"Reset", "", "subject"},
		{"Reset", `subject: "ann" names: "Upper"`, "names[0]"},
		{"Reset", `subject: "ann" names: "a" names: ""`, "names[1]"},
		{"Reset", `subject: "ann" ` + numbered(101, `names: "n%d"`), "names"},
	}...)
	for _, id := range []string{"lr1_", "lr1_malformed", "lr2_" + endedReservation[4:], endedReservation + "A", endedReservation[:len(endedReservation)-1], strings.Repeat("q", 1600)} {
		bad = append(bad, [3]string{"Commit", `reservation_id: "` + id + `"`, "reservation_id"}, [3]string{"Cancel", `reservation_id: "` + id + `"`, "reservation_id"})
	}
	good = [][3]string{
		{"Consume", `subject: ` + quoted(256) + oneLimit + ` cost: 0`},
		{"Consume", `subject: "ann" ` + oneLimit + ` cost: 1099511627776 allow_partial: true`},
		{"Consume", `subject: "ann" ` + numbered(8, `limits {inline {name: "n%d" capacity: 1099511627776 period {nanos: 1000000}}}`) + ` request_id: ` + quoted(128)},
		{"Consume", `subject: "ann" limits {inline {name: ` + quoted(63) + ` capacity: 0 period {seconds: 31622400}}}`},
		{"Consume", `subject: "ann" limits {inline {capacity: 1 burst: 10 period {seconds: 31536000} redis_timeout {nanos: 50000000}}}`},
		{"Consume", `subject: "ann" limits {inline {capacity: 1048576 burst: 1099511627776 period {nanos: 1000000} redis_timeout {nanos: 1000000}}}`},
		{"Consume", `subject: "ann" ` + oneLimit + ` limits {subject: ` + quoted(256) + ` inline {capacity: 9 ` + minute + `}}`},
		{"Peek", `subject: "ann" ` + oneLimit + ` cost: 0`},
		{"Refund", `subject: "ann" ` + oneLimit + ` cost: 1099511627776`},
		{"Reserve", `subject: "ann" ` + oneLimit + ` ttl {seconds: 86400}`},
		{"Reserve", `subject: "ann" ` + oneLimit + ` ttl {nanos: 1} cost: 0`},
		{"BatchConsume", times(100, `items {subject: "ann" `+oneLimit+`}`)},
		{"Commit", `reservation_id: "$RESERVATION"`},
		{"Commit", `reservation_id: "$RESERVATION" cost: 0`},
		{"Cancel", `reservation_id: "$RESERVATION"`},
		{"Reset", `subject: "ann"`},
		{"Reset", `subject: "ann" ` + numbered(100, `names: "n%d"`)},
	}
	for _, seconds := range []string{"1", "60", "3600", "86400", "604800", "2592000", "31536000"} {
		good = append(good, [3]string{"Consume", `subject: "ann" limits {inline {name: "c` + seconds + `" capacity: 1 algorithm: ALGORITHM_FIXED_WINDOW alignment: ALIGNMENT_CALENDAR period {seconds: ` + seconds + `}}}`})
	}
	return bad, good
}

func (c *costs) exhausted() {
	c.name()
	c.do("Consume", `subject: "$NEW" limits {inline {capacity: 9 period {seconds: 60}}}`)
}

func (c *costs) denied() {
	c.exhausted()
	c.do("Consume", `subject: "$NEW" limits {inline {capacity: 9 period {seconds: 60}}} cost: 9`)
}

func (c *costs) reserved() {
	c.name()
	m, req := parse(c.t, "Reserve", `subject: "`+c.new()+`" limits {inline {capacity: 9 period {seconds: 60}}}`, c.session)
	resp, err := c.call(c.t.Context(), c.t, m, req)
	if err != nil {
		c.t.Fatalf("Reserve = %v, want nil", err)
	}
	c.reservation = resp.(*ratelimitv1.ReserveResponse).GetReservationId()
}
