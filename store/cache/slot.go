package cache

import (
	"strconv"
	"sync"

	"github.com/berthcare/larder/store/redis"
)

// slots is the number of slots of a Redis Cluster.
const slots = 16384

// slot returns the slot of a hash tag.
func slot(tag string) uint16 { return redis.SlotOfTag(tag) }

// numbers are one number for each slot, whose decimal digits hash to that slot.
var numbers = sync.OnceValue(func() *[slots]uint32 {
	var found [slots]uint32
	for n, left := uint32(1), slots; left > 0; n++ {
		if s := slot(strconv.FormatUint(uint64(n), 10)); found[s] == 0 {
			found[s] = n
			left--
		}
	}
	return &found
})

// numberOf returns the decimal digits of a number whose slot is s.
func numberOf(s uint16) string { return strconv.FormatUint(uint64(numbers()[s]), 10) }
