package warm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berthcare/larder/client"
)

// maxBatchBytes is the size at which a batch ends, well below the 4 MiB that every server accepts in a message.
const maxBatchBytes = 2 << 20

// An entryID identifies an entry on the server.
type entryID struct{ namespace, key string }

// A numberedEntry is an entry and the number of its line; the first line is 1.
type numberedEntry struct {
	*entry

	number int64
}

func (e *numberedEntry) id() entryID { return entryID{e.Namespace, e.Key} }

// A batch is a part of the input that is sent together, in one request for each namespace.
type batch struct {
	entries []*numberedEntry
	bytes   int
	end     checkpoint // the position behind the batch; the counters are not set
	bad     int64      // lines that were skipped because they could not be parsed

	done   chan error // receives the result of sendBatch
	faults []fault    // lines that the server has refused
	stored int64
}

// A fault is a bad line and what is wrong with it.
type fault struct {
	number int64
	what   string
}

// sendBatch writes the entries of a batch, namespace by namespace. Entries that the server refuses are noted as faults, and
// the others are sent again without them if --keep-going is set.
func (r *run) sendBatch(ctx context.Context, b *batch) error {
	byNamespace := map[string][]*numberedEntry{}
	var order []string
	for _, e := range b.entries {
		if byNamespace[e.Namespace] == nil {
			order = append(order, e.Namespace)
		}
		byNamespace[e.Namespace] = append(byNamespace[e.Namespace], e)
	}
	for _, namespace := range order {
		entries := byNamespace[namespace]
		for len(entries) > 0 {
			rest, err := r.set(ctx, namespace, entries, b)
			if err != nil {
				return err
			}
			if len(b.faults) > 0 && !r.KeepGoing {
				return nil
			}
			entries = rest
		}
	}
	return nil
}

// set writes entries of one namespace. If the server refuses some of them it writes none, and set returns the others.
func (r *run) set(ctx context.Context, namespace string, entries []*numberedEntry, b *batch) (again []*numberedEntry, err error) {
	now := time.Now()
	var items []client.SetItem
	var live []*numberedEntry
	for _, e := range entries {
		if item, ok := e.item(now); ok {
			items, live = append(items, item), append(live, e)
		}
	}
	if len(items) == 0 {
		return nil, nil
	}
	written, err := r.api.In(namespace).BatchSet(ctx, items)
	if err != nil {
		refused := refusedLines(err, live)
		if len(refused) == 0 {
			return nil, err
		}
		b.faults = append(b.faults, refused...)
		return slices.DeleteFunc(live, func(e *numberedEntry) bool {
			return slices.ContainsFunc(refused, func(f fault) bool { return f.number == e.number })
		}), nil
	}
	for i, item := range written {
		if item.Err != nil {
			return nil, fmt.Errorf("line %d: %s", live[i].number, cause(item.Err))
		}
	}
	b.stored += int64(len(written))
	return nil, nil
}

// cause returns the text of an error of the client without the prefix "larder: ", which the command writes before every
// line of its own.
func cause(err error) string { return strings.TrimPrefix(err.Error(), "larder: ") }

// refusedLines returns the lines that an error of BatchSet is about, or none if it is not about single entries.
func refusedLines(err error, entries []*numberedEntry) (refused []fault) {
	var e *client.Error
	if !errors.As(err, &e) {
		return nil
	}
	if len(entries) == 1 && errors.Is(err, client.ErrTooLarge) {
		return []fault{{entries[0].number, "is larger than the server accepts"}}
	}
	for _, v := range e.Violations {
		if v.Field == "namespace" {
			for _, entry := range entries {
				refused = append(refused, fault{entry.number, "namespace: " + v.Description})
			}
			return refused
		}
		index, field, ok := strings.Cut(strings.TrimPrefix(v.Field, "items["), "].")
		i, err := strconv.Atoi(index)
		if !ok || err != nil || i >= len(entries) {
			continue
		}
		if n := len(refused); n > 0 && refused[n-1].number == entries[i].number {
			refused[n-1].what += "; " + field + ": " + v.Description
			continue
		}
		refused = append(refused, fault{entries[i].number, field + ": " + v.Description})
	}
	return refused
}
