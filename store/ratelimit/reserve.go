package ratelimit

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strconv"
	"time"

	"github.com/berthcare/larder/store/redis"
)

//go:embed settle.lua
var settleText string

// settleScript also runs when Redis has no memory left: it charges, or makes room.
var settleScript = redis.NewFreeingScript("ratelimit_settle", commonText+settleText, nil)

// errReservation means that a text is not the id of a reservation, which callers of this package check.
var errReservation = errors.New("not the id of a reservation")

// Reserve charges a cost as Consume does and returns the id of a reservation, under which the cost can be corrected or given back
// until ttl has passed. After that, as after a crash of the caller, what was reserved stays charged and comes back by the passing
// of time like everything else that is used. The charges must be of one subject, and of one cost. The id is empty if the call
// was denied, or if Redis did not decide.
func (l *Limiter) Reserve(ctx context.Context, namespace string, charges []Charge, ttl time.Duration, o ConsumeOptions) (Decision, string, error) {
	request := o.RequestID
	o.RequestID = ""
	c, err := l.newCall(namespace, charges, o)
	if err != nil {
		return Decision{}, "", err
	}
	for i := range charges {
		if charges[i].Subject != charges[0].Subject || charges[i].Cost != charges[0].Cost || charges[i].Cost < 0 {
			return Decision{}, "", redis.Fail(redis.ErrInternal, errSubjects)
		}
	}
	c.named = request != ""
	if d, ok := l.denials.decide(c); ok {
		l.counters.local.Add(1)
		return d, "", nil
	}
	r := reservation{subject: charges[0].Subject}
	if request == "" {
		_, _ = rand.Read(r.name[:]) // never fails
	} else {
		sum, _ := hex.DecodeString(c.digest("reserve", request))
		copy(r.name[:], sum)
	}
	for i := range charges {
		r.limits = append(r.limits, letters[charges[i].Rule.Algorithm]+charges[i].Name)
	}
	c.record, c.about, c.keep = r.key(namespace), aboutKeys(c.keys), ttl
	l.run(ctx, c)
	d, err := l.conclude(ctx, c)
	if err != nil || !d.Allowed || d.Degraded {
		return d, "", err
	}
	return d, r.String(), nil
}

// SettleOutcome says what became of a reservation.
type SettleOutcome int64

// The outcomes, as the script numbers them.
const (
	// NotReserved means that there is no such reservation: it has expired, or was never made.
	NotReserved SettleOutcome = 0
	// Settled means that the reservation has ended as was asked, by this call or by an earlier one.
	Settled SettleOutcome = 1
	// SettledOtherwise means that the reservation had ended before: it was committed and not cancelled, or the other way round.
	SettledOtherwise SettleOutcome = 2
)

// A Settlement is the end of a reservation.
type Settlement struct {
	// Outcome says what became of the reservation. The rest is empty if it is [NotReserved].
	Outcome SettleOutcome
	// Subject is that of the reservation.
	Subject string
	// Names are those of the limits, Full what may be used of each at once, and Results what is used after the call; the
	// RetryAfter and Outcome of a result are not set.
	Names   []string
	Full    []int64
	Results []Result
}

// Commit ends a reservation and charges what was used in the end: the difference to what was reserved is charged, also beyond the
// limit, or given back, as far as it still counts. A negative number means what was reserved. A repetition within a minute gets the
// same answer.
func (l *Limiter) Commit(ctx context.Context, namespace, id string, used int64) (Settlement, error) {
	return l.settle(ctx, namespace, id, "committed", used)
}

// Cancel ends a reservation and gives back what was reserved.
func (l *Limiter) Cancel(ctx context.Context, namespace, id string) (Settlement, error) {
	return l.settle(ctx, namespace, id, "cancelled", 0)
}

// numbersOfSettled is how many numbers the script returns for each limit.
const numbersOfSettled = 6

func (l *Limiter) settle(ctx context.Context, namespace, id, outcome string, used int64) (Settlement, error) {
	r, ok := parseReservation(id)
	if !ok {
		return Settlement{}, redis.Fail(redis.ErrInternal, errReservation)
	}
	keys := make([]string, 0, len(r.limits)+1)
	names := make([]string, 0, len(r.limits))
	for _, limit := range r.limits {
		c := &Charge{Subject: r.subject, Name: limit[1:], Rule: Rule{Algorithm: algorithmOf(limit[:1])}}
		keys, names = append(keys, usageKey(namespace, c)), append(names, c.Name)
	}
	defer l.denials.forget(keys...)
	about := aboutKeys(keys)
	reply, err := l.redis.Run(ctx, l.scripts.settle, redis.Writes, append(keys[:len(keys):len(keys)], r.key(namespace)),
		outcome, strconv.FormatInt(max(min(used, maxCost), -1), 10), about, redis.Millis(requestMemory))
	if err != nil {
		return Settlement{}, err
	}
	n, err := reply.AsIntSlice()
	if err != nil || len(n) == 0 || len(n) > 1 && len(n) != 1+numbersOfSettled*len(names) {
		return Settlement{}, redis.Fail(redis.ErrInternal, errShort)
	}
	s := Settlement{Outcome: SettleOutcome(n[0])}
	if len(n) > 1 {
		s.Subject, s.Names = r.subject, names
		for n = n[1:]; len(n) > 0; n = n[numbersOfSettled:] {
			s.Full = append(s.Full, n[1])
			s.Results = append(s.Results, Result{
				Charged: n[0], Used: n[2], Remaining: max(n[1]-n[2], 0), AvailableAfter: micros(n[3]), ResetAfter: micros(n[4]),
			})
		}
	}
	return s, nil
}

// A reservation is what its id says. The id names the subject and the limits, so that all keys of the script are known.
type reservation struct {
	name    [16]byte
	subject string
	limits  []string // the letter of the algorithm and the name
}

func (r *reservation) key(namespace string) string {
	return recordKey(namespace, r.subject, "r"+hex.EncodeToString(r.name[:]))
}

const reservationPrefix = "lr1_"

// String returns the id.
func (r *reservation) String() string {
	b := append([]byte(nil), r.name[:]...)
	b = binary.AppendUvarint(b, uint64(len(r.subject)))
	b = append(b, r.subject...)
	for _, limit := range r.limits {
		b = binary.AppendUvarint(b, uint64(len(limit)))
		b = append(b, limit...)
	}
	return reservationPrefix + base64.RawURLEncoding.EncodeToString(b)
}

// ValidReservation reports whether a text is the id of a reservation.
func ValidReservation(id string) bool {
	_, ok := parseReservation(id)
	return ok
}

// parseReservation reads an id, and accepts only what String writes.
func parseReservation(id string) (r reservation, ok bool) {
	if len(id) < len(reservationPrefix) || id[:len(reservationPrefix)] != reservationPrefix {
		return r, false
	}
	b, err := base64.RawURLEncoding.DecodeString(id[len(reservationPrefix):])
	if err != nil || len(b) < len(r.name) {
		return r, false
	}
	b = b[copy(r.name[:], b):]
	text := func() (s string, ok bool) {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > uint64(len(b)-size) {
			return "", false
		}
		s = string(b[size : size+int(n)]) //nolint:gosec // n is at most the length of b
		b = b[size+int(n):]               //nolint:gosec // as above
		return s, true
	}
	if r.subject, ok = text(); !ok {
		return r, false
	}
	for len(b) > 0 {
		limit, ok := text()
		if !ok || len(limit) < 1 || algorithmOf(limit[:1]) == "" {
			return r, false
		}
		r.limits = append(r.limits, limit)
	}
	return r, len(r.limits) > 0 && r.String() == id
}

func algorithmOf(letter string) Algorithm {
	for _, a := range []Algorithm{GCRA, SlidingWindow, FixedWindow} {
		if letters[a] == letter {
			return a
		}
	}
	return ""
}

// digest returns a name for a request with this call's charges: the same request id with others is another request.
func (c *call) digest(request ...string) string {
	h := sha256.New()
	write := func(s string) {
		h.Write(binary.AppendUvarint(nil, uint64(len(s))))
		h.Write([]byte(s))
	}
	for _, s := range request {
		write(s)
	}
	write(string(c.options.Mode))
	for i := range c.charges {
		write(c.keys[i])
		write(strconv.FormatInt(c.charges[i].Cost, 10))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// aboutKeys returns a name for keys.
func aboutKeys(keys []string) string {
	h := sha256.New()
	for _, key := range keys {
		h.Write(binary.AppendUvarint(nil, uint64(len(key))))
		h.Write([]byte(key))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
