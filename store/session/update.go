package session

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"

	"github.com/redis/rueidis"

	"github.com/berthcare/larder/store/redis"
)

// Changes are changes of attributes. Each name may occur once. Other attributes keep their values.
type Changes struct {
	// Set are attributes to write.
	Set map[string]string
	// SetIfAbsent are attributes to write if the session has none of that name.
	SetIfAbsent map[string]string
	// Increment are numbers to add to attributes; an absent attribute counts as zero.
	Increment map[string]int64
	// Delete are names of attributes to remove.
	Delete []string
	// ExpectedVersion is the version that the session must have; zero means any.
	ExpectedVersion int64
}

// Updated is the result of [Sessions.Update].
type Updated struct {
	// Version is the version after the update; zero means that the session is not active.
	Version int64
	// Incremented are the new values of the incremented attributes.
	Incremented map[string]int64
	// SetIfAbsent are the sorted names of the attributes of [Changes.SetIfAbsent] that were absent and are now set.
	SetIfAbsent []string
}

// Update changes attributes of an active session, all of them or none. It leaves the version as it is if no attribute
// changes. It fails with [ErrVersionMismatch], [ErrTooManyAttributes], [redis.ErrNotCounter] and [redis.ErrOverflow].
func (s *Sessions) Update(ctx context.Context, namespace string, t Target, u Changes) (updated Updated, err error) {
	if s.keyring != nil && len(u.Increment) > 0 {
		return s.updateEncrypted(ctx, namespace, t, u)
	}
	return s.update(ctx, namespace, t, u)
}

// maxUpdates bounds the attempts of an update that other updates overtake.
const maxUpdates = 64

// updateEncrypted increments encrypted attributes, which Redis cannot do: it reads the session, adds, and writes if the
// version is still the same.
func (s *Sessions) updateEncrypted(ctx context.Context, namespace string, t Target, u Changes) (Updated, error) {
	cred, ok := t.resolve()
	if !ok {
		return Updated{}, nil
	}
	for range maxUpdates {
		r, err := s.read(ctx, cred.partition, namespace, cred.id, false)
		if err != nil || r == nil {
			return Updated{}, err
		}
		if cred.secret != nil {
			if as := r.secrets.presented(cred, r.readAt); as != current && as != previous {
				return s.update(ctx, namespace, t, Changes{}) // the script ends the session if the secret is stolen
			}
		}
		if u.ExpectedVersion != 0 && u.ExpectedVersion != r.session.Version {
			return Updated{}, &VersionMismatchError{Version: r.session.Version}
		}
		write := u
		write.ExpectedVersion, write.Increment = r.session.Version, nil
		write.Set = maps.Clone(u.Set)
		if write.Set == nil {
			write.Set = make(map[string]string, len(u.Increment))
		}
		sums, err := add(r.session.Attributes, u.Increment)
		if err != nil {
			return Updated{}, err
		}
		for name, sum := range sums {
			if value := strconv.FormatInt(sum, 10); value != r.session.Attributes[name] {
				write.Set[name] = value
			}
		}
		updated, err := s.update(ctx, namespace, t, write)
		if errors.Is(err, ErrVersionMismatch) {
			continue
		}
		if updated.Version > 0 {
			updated.Incremented = sums
		}
		return updated, err
	}
	return Updated{}, redis.Fail(redis.ErrUnavailable, errors.New("the session kept changing"))
}

// add returns the sums of attributes and numbers; an absent attribute counts as zero.
func add(attributes map[string]string, numbers map[string]int64) (map[string]int64, error) {
	sums := make(map[string]int64, len(numbers))
	for name, delta := range numbers {
		before := int64(0)
		if text, ok := attributes[name]; ok {
			var err error
			if before, err = strconv.ParseInt(text, 10, 64); err != nil || strconv.FormatInt(before, 10) != text {
				return nil, redis.Fail(redis.ErrNotCounter, nil)
			}
		}
		if sum := before + delta; delta > 0 && sum < before || delta < 0 && sum > before {
			return nil, redis.Fail(redis.ErrOverflow, nil)
		}
		sums[name] = before + delta
	}
	return sums, nil
}

// update runs update.lua.
func (s *Sessions) update(ctx context.Context, namespace string, t Target, u Changes) (updated Updated, err error) {
	cred, ok := t.resolve()
	if !ok {
		return updated, nil
	}
	keys, args := changing(cred.partition, namespace, cred.id)
	if len(u.Increment) > 0 {
		keys = append(keys, sumKey(cred.partition, namespace, cred.id))
	}
	args = append(args, cred.proof(), strconv.FormatInt(u.ExpectedVersion, 10), strconv.Itoa(MaxAttributes), strconv.Itoa(MaxAttributeBytes),
		strconv.Itoa(len(u.Set)), strconv.Itoa(len(u.SetIfAbsent)), strconv.Itoa(len(u.Increment)))
	for name, value := range s.sealAttributes(keys[0], u.Set) {
		args = append(args, name, value)
	}
	var absent, incremented []string
	for name, value := range s.sealAttributes(keys[0], u.SetIfAbsent) {
		absent = append(absent, name)
		args = append(args, name, value)
	}
	for name, delta := range u.Increment {
		incremented = append(incremented, name)
		args = append(args, name, strconv.FormatInt(delta, 10))
	}
	args = append(args, u.Delete...)
	defer s.redis.Forget(keys[0])
	m, err := s.run(ctx, updateScript, redis.WritesOnce, keys, args...)
	if err != nil {
		return updated, err
	}
	return parseUpdated(m, absent, incremented)
}

// parseUpdated reads the answer of update.lua, which lists attributes in the order of the request.
func parseUpdated(m rueidis.RedisMessage, absent, incremented []string) (updated Updated, err error) {
	parts, err := m.ToArray()
	if err != nil || len(parts) != 4 {
		return updated, redis.ErrInternal
	}
	outcome, err1 := parts[0].AsInt64()
	version, err2 := parts[1].AsInt64()
	sums, err3 := parts[2].AsStrSlice()
	applied, err4 := parts[3].AsIntSlice()
	if err1 != nil || err2 != nil || err3 != nil || err4 != nil {
		return updated, redis.ErrInternal
	}
	switch outcome {
	case 0:
		return updated, nil
	case 2:
		return updated, &VersionMismatchError{Version: version}
	}
	if len(sums) != len(incremented) || len(applied) != len(absent) {
		return updated, redis.ErrInternal
	}
	updated.Version = version
	n := numbers{ok: true}
	for i, name := range incremented {
		if updated.Incremented == nil {
			updated.Incremented = map[string]int64{}
		}
		updated.Incremented[name] = n.int64(sums[i])
	}
	for i, name := range absent {
		if applied[i] == 1 {
			updated.SetIfAbsent = append(updated.SetIfAbsent, name)
		}
	}
	slices.Sort(updated.SetIfAbsent)
	if !n.ok {
		return updated, redis.ErrInternal
	}
	return updated, nil
}
