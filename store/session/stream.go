package session

import (
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/redis"
)

// streamEvent is an event of a partition's stream, of any namespace.
type streamEvent struct {
	Event

	namespace string
	at        streamPosition
}

// streamRead is the answer of events.lua.
type streamRead struct {
	events []streamEvent
	// last is the end of the stream. Its added counts all events since the stream began, including those that were trimmed.
	last streamPosition
	// there is the number of events that Redis still has.
	there uint64
	// counted is false with the embedded store, which does not count additions; first is then the oldest event.
	counted bool
	first   streamPosition
}

// gap reports whether events after a position are missing, when up to most events were read from there. Stream and position
// both count additions, so the counts differ if events were trimmed, the stream was flushed, or a failover lost its end.
func (r *streamRead) gap(at streamPosition, most int) bool {
	if r.last.before(at) {
		return true
	}
	if !r.counted {
		// If the last delivered event is gone, others after it may be gone too.
		return at.ms > 0 && r.there > 0 && at.before(r.first) && uint64(len(r.events)) == r.there
	}
	read := at.added + uint64(len(r.events))
	if len(r.events) < most && read != r.last.added {
		return true
	}
	return read > r.last.added || r.last.added-r.there > at.added
}

func parseStream(m rueidis.RedisMessage) (*streamRead, error) {
	parts, err := m.ToArray()
	if err != nil || len(parts) != 5 {
		return nil, redis.ErrInternal
	}
	events, err := parts[0].ToArray()
	if err != nil {
		return nil, redis.ErrInternal
	}
	r := new(streamRead)
	last, err1 := parts[1].ToString()
	added, err2 := parts[2].AsInt64()
	there, err3 := parts[3].AsInt64()
	first, err4 := parts[4].ToString()
	if err1 != nil || err2 != nil || err3 != nil || err4 != nil || there < 0 {
		return nil, redis.ErrInternal
	}
	var ok bool
	if r.last, ok = parseStreamID(last); !ok {
		return nil, redis.ErrInternal
	}
	if first != "" {
		if r.first, ok = parseStreamID(first); !ok {
			return nil, redis.ErrInternal
		}
	}
	r.there, r.counted = uint64(there), added >= 0
	if r.counted {
		r.last.added = uint64(added)
	}
	for _, e := range events {
		parsed, err := parseStreamEvent(e)
		if err != nil {
			return nil, err
		}
		r.events = append(r.events, parsed)
	}
	return r, nil
}

func parseStreamEvent(m rueidis.RedisMessage) (e streamEvent, err error) {
	parts, err := m.ToArray()
	if err != nil || len(parts) != 2 {
		return e, redis.ErrInternal
	}
	id, err := parts[0].ToString()
	if err != nil {
		return e, redis.ErrInternal
	}
	var ok bool
	if e.at, ok = parseStreamID(id); !ok {
		return e, redis.ErrInternal
	}
	fields, err := parts[1].AsStrSlice()
	if err != nil || len(fields)%2 != 0 {
		return e, redis.ErrInternal
	}
	for i := 0; i < len(fields); i += 2 {
		switch name, value := fields[i], fields[i+1]; name {
		case "type":
			e.Type = value
		case "at":
			ms, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return e, redis.Fail(redis.ErrCorrupt, nil)
			}
			e.At = time.UnixMilli(ms)
		case "ns":
			e.namespace = value
		case "sid":
			e.SessionID = value
		case "sub":
			e.Subject = value
		case "reason":
			e.Reason = value
		case "except":
			e.ExceptSessionID = value
		default:
			if e.Details == nil {
				e.Details = make(map[string]string)
			}
			e.Details[name] = value
		}
	}
	return e, nil
}

func parseStreamID(id string) (at streamPosition, ok bool) {
	ms, seq, found := strings.Cut(id, "-")
	var err1, err2 error
	at.ms, err1 = strconv.ParseUint(ms, 10, 64)
	at.seq, err2 = strconv.ParseUint(seq, 10, 64)
	return at, found && err1 == nil && err2 == nil
}

// streamPosition is a position in a stream: the id of the last event before it, and the number of events that were ever
// added up to it.
type streamPosition struct{ ms, seq, added uint64 }

func (a streamPosition) before(b streamPosition) bool {
	return a.ms < b.ms || a.ms == b.ms && a.seq < b.seq
}

func (a streamPosition) id() string {
	return strconv.FormatUint(a.ms, 10) + "-" + strconv.FormatUint(a.seq, 10)
}
