package redis

import "strings"

// SlotOfTag returns the slot of a hash tag in a cluster: its CRC16 (XMODEM) modulo 16384, by the Redis Cluster specification.
func SlotOfTag(tag string) uint16 {
	var crc uint16
	for i := range len(tag) {
		crc = crc<<8 ^ crcTable[byte(crc>>8)^tag[i]]
	}
	return crc % clusterSlots
}

// slotOf returns the slot of a key: that of what is between its first brace and the next closing one, or of all of it.
func slotOf(key string) uint16 {
	if _, rest, ok := strings.Cut(key, "{"); ok {
		if tag, _, ok := strings.Cut(rest, "}"); ok && tag != "" {
			return SlotOfTag(tag)
		}
	}
	return SlotOfTag(key)
}

var crcTable = func() (table [256]uint16) {
	for i := range table {
		crc := uint16(i) << 8 //nolint:gosec // a byte
		for range 8 {
			carry := crc&0x8000 != 0
			crc <<= 1
			if carry {
				crc ^= 0x1021
			}
		}
		table[i] = crc
	}
	return table
}()

// slotOwners are the ids of the owners of all slots; empty for none.
type slotOwners [clusterSlots]string

// ownersOf returns the owners that views agree on.
func ownersOf(s survey) *slotOwners {
	o := new(slotOwners)
	for id, ranges := range s.slots {
		for _, r := range ranges {
			for slot := r[0]; slot <= r[1]; slot++ {
				o[slot] = id
			}
		}
	}
	return o
}
