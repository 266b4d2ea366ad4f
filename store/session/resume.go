package session

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"
)

// A resume token is the URL-safe base64 without padding (RFC 4648 section 5) of: the version, a hash that binds the token to
// its namespace and subject, the positions in the streams as varints, and the CRC-32 of all that. There is one position if
// the watch has a subject and 256 if not. A position is the milliseconds, and unless they are zero the sequence number and
// the count.
const (
	resumeVersion = 1
	resumeBinding = 8
	// MaxResumeToken is the maximum length of a token in bytes.
	MaxResumeToken = (1 + resumeBinding + partitions*3*binary.MaxVarintLen64 + crc32.Size + 2) / 3 * 4
)

func resumeToken(namespace, subject string, at []streamPosition) string {
	b := append(make([]byte, 0, 16+12*len(at)), resumeVersion)
	b = append(b, resumeBound(namespace, subject)...)
	for _, p := range at {
		b = binary.AppendUvarint(b, p.ms)
		if p.ms > 0 {
			b = binary.AppendUvarint(b, p.seq)
			b = binary.AppendUvarint(b, p.added)
		}
	}
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
	return strict.EncodeToString(b)
}

func resumeBound(namespace, subject string) []byte {
	sum := sha256.Sum256([]byte(namespace + "\x00" + subject))
	return sum[len(sum)-resumeBinding:]
}

// parseResume returns the positions of a token; zero positions if the token is empty.
func parseResume(namespace, subject, token string) (at []streamPosition, ok bool) {
	at = make([]streamPosition, partitions)
	if subject != "" {
		at = at[:1]
	}
	if token == "" {
		return at, true
	}
	if len(token) > MaxResumeToken {
		return nil, false
	}
	b, err := strict.DecodeString(token)
	if err != nil || len(b) < 1+resumeBinding+crc32.Size || b[0] != resumeVersion ||
		!bytes.Equal(b[1:1+resumeBinding], resumeBound(namespace, subject)) {
		return nil, false
	}
	rest := b[1+resumeBinding : len(b)-crc32.Size]
	ok = true
	next := func() uint64 {
		n, size := binary.Uvarint(rest)
		if size <= 0 {
			ok = false
			return 0
		}
		rest = rest[size:]
		return n
	}
	for i := range at {
		if at[i].ms = next(); at[i].ms > 0 {
			at[i].seq, at[i].added = next(), next()
		}
	}
	// Comparing the whole token checks the checksum and refuses other encodings of the same numbers.
	return at, ok && len(rest) == 0 && resumeToken(namespace, subject, at) == token
}

// ValidResumeToken reports whether token was given out for the events of a namespace and subject; an empty subject means all
// subjects.
func ValidResumeToken(namespace, subject, token string) bool {
	_, ok := parseResume(namespace, subject, token)
	return ok
}
