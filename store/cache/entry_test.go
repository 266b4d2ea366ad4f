package cache

import (
	"bytes"
	"crypto/rand"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthcare/larder/store/redis"
)

// encode and decodeEntry are what a store without a keyring does.
func (e *Entry) encode(compressAbove int) []byte {
	return (&Cache{options: Options{CompressAbove: compressAbove}}).encode("k", e)
}

func decodeEntry(raw []byte) (e Entry, plain bool, err error) { return new(Cache).decode("k", raw) }

// header returns the first bytes of an entry with these flags, all else being zero.
func header(flags byte) string {
	return magic + string([]byte{formatVersion, flags}) + strings.Repeat("\x00", headerSize-offFlags-1)
}

func TestEntryRoundTrip(t *testing.T) {
	t.Parallel()
	now := time.UnixMicro(1_700_000_000_123_456)
	tags := make([]string, 32)
	for i := range tags {
		tags[i] = strings.Repeat(string(rune('a'+i%26)), 1+i*4)
	}
	entries := map[string]Entry{
		"nothing":  {},
		"value":    {Value: []byte("value"), ETag: ETag{1, 2, 3, 4, 5, 6, 7, 8}, AsOf: now},
		"expiries": {Value: []byte("value"), AsOf: now, Soft: now.Add(time.Hour), Hard: now.Add(2 * time.Hour)},
		"negative": {Negative: true, AsOf: now},
		"labels":   {Value: []byte("value"), Tags: tags, ContentType: strings.Repeat("x", 255)},
		"tag":      {Tags: []string{"t"}},
		"type":     {ContentType: "text/plain"},
		"load":     {LoadTime: 1500 * time.Microsecond},
		"nested":   {Value: []byte(magic + "\x01"), Tags: []string{"LD\x01"}},
	}
	for name, e := range entries {
		got, plain, err := decodeEntry(e.encode(0))
		if err != nil || plain {
			t.Errorf("%s: decode: plain %v, error %v, want an entry", name, plain, err)
		}
		e.Value = bytes.Clone(e.Value)
		if e.Value == nil {
			e.Value = []byte{}
		}
		if diff := cmp.Diff(e, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestEntryClampsItsLoadTime(t *testing.T) {
	t.Parallel()
	for load, want := range map[time.Duration]time.Duration{
		-time.Second:     0,
		1000 * time.Hour: math.MaxUint32 * time.Microsecond,
	} {
		e := Entry{LoadTime: load}
		if got, _, err := decodeEntry(e.encode(0)); err != nil || got.LoadTime != want {
			t.Errorf("LoadTime %v is decoded as %v, %v, want %v", load, got.LoadTime, err, want)
		}
	}
}

func TestDecodeEntryTellsPlainFromCorrupt(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, raw      string
		plain, corrupt bool
	}{
		{"empty", "", true, false},
		{"text", "value", true, false},
		{"number", "42", true, false},
		{"a part of the magic", "\xc1L", true, false},
		{"the magic later on", "x" + header(0), true, false},
		{"the magic alone", magic, false, true},
		{"another version", magic + "\x02" + header(0)[4:], false, true},
		{"version zero", magic + "\x00" + header(0)[4:], false, true},
		{"a short header", header(0)[:headerSize-1], false, true},
		{"an unknown flag", header(flagsKnown + 1), false, true},
		{"a header alone", header(0), false, false},
		{"no tags", header(flagTags), false, true},
		{"zero tags", header(flagTags) + "\x00", false, true},
		{"an empty tag", header(flagTags) + "\x01\x00", false, false},
		{"a tag too few", header(flagTags) + "\x02\x01a", false, true},
		{"a tag cut short", header(flagTags) + "\x01\x05abcd", false, true},
		{"no content type", header(flagContentType), false, true},
		{"a content type cut short", header(flagContentType) + "\x05text", false, true},
		{"a content type", header(flagContentType) + "\x04text", false, false},
	}
	for _, test := range tests {
		_, plain, err := decodeEntry([]byte(test.raw))
		if plain != test.plain || errors.Is(err, redis.ErrCorrupt) != test.corrupt || err != nil && !test.corrupt {
			t.Errorf("%s: decode: plain %v, error %v, want plain %v, corrupt %v", test.name, plain, err, test.plain, test.corrupt)
		}
	}
}

// TestETagOfPlainValues is what the scripts compute by redis.sha1hex.
func TestETagOfPlainValues(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{"": "da39a3ee5e6b4b0d", "abc": "a9993e364706816a"} {
		if e, _, err := decodeEntry([]byte(value)); err != nil || e.ETag.String() != want {
			t.Errorf("etag of plain %q = %s, %v, want %s", value, e.ETag, err, want)
		}
	}
}

func TestParseETag(t *testing.T) {
	t.Parallel()
	etag := newETag()
	if got, ok := ParseETag(etag.String()); !ok || got != etag {
		t.Errorf("ParseETag(%v) = %v, %v, want the same etag", etag, got, ok)
	}
	for _, s := range []string{"", "0", "0011223344556677 ", "001122334455667", "00112233445566gg", "AABBCCDDEEFF0011", "0x11223344556677", strings.Repeat("0", 32)} {
		if _, ok := ParseETag(s); ok {
			t.Errorf("ParseETag(%q) succeeded, want a refusal", s)
		}
	}
}

// TestTimesCompareAsStrings is what lets scripts compare them without decoding.
func TestTimesCompareAsStrings(t *testing.T) {
	t.Parallel()
	times := []time.Time{
		{},
		time.UnixMicro(1), time.UnixMicro(255), time.UnixMicro(256), time.UnixMicro(1<<32 - 1), time.UnixMicro(1 << 32),
		time.UnixMicro(1_700_000_000_000_000), time.UnixMicro(1<<53 - 1),
	}
	for i, a := range times {
		for j, b := range times {
			if (bigEndian(a) < bigEndian(b)) != (i < j) {
				t.Errorf("bigEndian of %v < that of %v is %v, want %v", a, b, bigEndian(a) < bigEndian(b), i < j)
			}
		}
	}
}

func FuzzEntryRoundTrip(f *testing.F) {
	f.Add([]byte("value"), uint64(1), int64(1_700_000_000_000_000), int64(1), int64(2), uint32(3), false, "", "", "")
	f.Add([]byte{}, uint64(math.MaxUint64), int64(0), int64(0), int64(0), uint32(math.MaxUint32), true, "a", "b", "text/plain")
	f.Add([]byte(magic), uint64(0), int64(math.MaxInt64), int64(math.MaxInt64), int64(math.MaxInt64), uint32(0), false, "\x00", magic, "\xff")
	f.Fuzz(func(t *testing.T, value []byte, etag uint64, asOf, soft, hard int64, load uint32, negative bool, tag1, tag2, contentType string) {
		text := func(s string) string { return strings.ToValidUTF8(s[:min(len(s), 255)], "") } // as callers' is
		at := func(us int64) time.Time { return fromMicros(uint64(max(us, 0))) }               //nolint:gosec // not negative
		e := Entry{
			Value: value, AsOf: at(asOf), Soft: at(soft), Hard: at(hard),
			LoadTime: time.Duration(load) * time.Microsecond, Negative: negative, ContentType: text(contentType),
		}
		for i := range e.ETag {
			e.ETag[i] = byte(etag >> (8 * i))
		}
		for _, tag := range []string{tag1, tag2} {
			if tag = text(tag); tag != "" {
				e.Tags = append(e.Tags, tag)
			}
		}
		got, plain, err := decodeEntry(e.encode(0))
		if err != nil || plain {
			t.Fatalf("decode: plain %v, error %v, want an entry", plain, err)
		}
		if diff := cmp.Diff(e, got, cmp.Comparer(bytes.Equal)); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	})
}

// FuzzDecodeEntry reads what anybody may have written: it never panics, and what is taken for an entry is written back
// as the same bytes.
func FuzzDecodeEntry(f *testing.F) {
	whole := Entry{Value: []byte("value"), ETag: ETag{1}, AsOf: time.UnixMicro(1), Tags: []string{"a", "b"}, ContentType: "text/plain", Negative: true}
	for i := range len(whole.encode(0)) + 1 {
		f.Add(whole.encode(0)[:i])
	}
	f.Add([]byte(header(0xff)))
	f.Add([]byte(header(flagTags) + "\xff" + strings.Repeat("\x00", 300)))
	f.Add([]byte(header(flagTags|flagContentType) + "\x01\xff"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, plain, err := decodeEntry(raw)
		switch {
		case err != nil:
			if !errors.Is(err, redis.ErrCorrupt) || plain {
				t.Fatalf("decode: plain %v, error %v, want %v", plain, err, redis.ErrCorrupt)
			}
		case plain:
			if !bytes.Equal(e.Value, raw) || strings.HasPrefix(string(raw), magic) {
				t.Fatalf("decoded as plain %q, want plain values only without the magic, and unchanged", e.Value)
			}
		default:
			again, _, err := decodeEntry(e.encode(0))
			if err != nil {
				t.Fatalf("decode of an encoded entry: error %v, want none", err)
			}
			if diff := cmp.Diff(e, again, cmp.Comparer(bytes.Equal)); diff != "" {
				t.Fatalf("decoded again (-want +got):\n%s", diff)
			}
		}
	})
}

// TestEntryCompression: values above the threshold are compressed, where that is worth it.
func TestEntryCompression(t *testing.T) {
	t.Parallel()
	const threshold = 1000
	noise := make([]byte, 10*threshold)
	_, _ = rand.Read(noise)
	tests := []struct {
		name       string
		value      []byte
		above      int
		compressed bool
	}{
		{"at the threshold", bytes.Repeat([]byte{'x'}, threshold), threshold, false},
		{"below it", bytes.Repeat([]byte{'x'}, threshold-1), threshold, false},
		{"above it", bytes.Repeat([]byte{'x'}, threshold+1), threshold, true},
		{"never", bytes.Repeat([]byte{'x'}, 100*threshold), 0, false},
		{"empty", []byte{}, 1, false},
		{"incompressible", noise, threshold, false},
		{"mostly incompressible", append(bytes.Clone(noise), bytes.Repeat([]byte{'x'}, threshold)...), threshold, false},
		{"half of it", append(bytes.Clone(noise), bytes.Repeat([]byte{'x'}, len(noise))...), threshold, true},
	}
	for _, test := range tests {
		e := Entry{Value: test.value, Tags: []string{"a", "b"}, ContentType: "text/plain"}
		raw := e.encode(test.above)
		if got := raw[offFlags]&flagS2 != 0; got != test.compressed || got != (len(raw) < len(e.encode(0))) {
			t.Errorf("%s: compressed = %v, %d bytes, want compressed %v and shorter only then", test.name, got, len(raw), test.compressed)
		}
		got, plain, err := decodeEntry(raw)
		if err != nil || plain || !cmp.Equal(got, e) {
			t.Errorf("%s: decode = %d bytes, plain %v, error %v, want the entry of %d bytes", test.name, len(got.Value), plain, err, len(test.value))
		}
	}
}

// TestCorruptCompression: neither a panic nor memory for what a broken length promises.
func TestCorruptCompression(t *testing.T) {
	t.Parallel()
	e := Entry{Value: bytes.Repeat([]byte("some value "), 1000)}
	whole := e.encode(1)
	for n := headerSize; n < len(whole); n++ {
		if _, plain, err := decodeEntry(whole[:n]); plain || !errors.Is(err, redis.ErrCorrupt) {
			t.Fatalf("decode of %d bytes of %d: plain %v, error %v, want %v", n, len(whole), plain, err, redis.ErrCorrupt)
		}
	}
	for name, tail := range map[string]string{
		"nothing": "", "a length alone": "\x05", "a length beyond memory": "\xff\xff\xff\xff\x0f" + "x", "no length": strings.Repeat("\xff", 20),
	} {
		if _, plain, err := decodeEntry([]byte(header(flagS2) + tail)); plain || !errors.Is(err, redis.ErrCorrupt) {
			t.Errorf("%s: decode: plain %v, error %v, want %v", name, plain, err, redis.ErrCorrupt)
		}
	}
}
