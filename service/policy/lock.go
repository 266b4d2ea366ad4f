package policy

import (
	"cmp"
	"time"

	"github.com/berthcare/larder/store/lock"
)

// Lock is the policy for the locks of one namespace. Nil fields are inherited as in [Cache].
type Lock struct {
	// DefaultTTL is the ttl where a request sets none: at least 100 ms, at most MaxTTL; nil means 30 s.
	DefaultTTL *time.Duration `yaml:"default_ttl"`
	// MaxTTL is the maximum ttl: at least 100 ms, at most 24 h; nil means 24 h.
	MaxTTL *time.Duration `yaml:"max_ttl"`
	// MaxPermits is the maximum number of concurrent holders that a request may ask for, 1 to 1000; nil means 1000.
	MaxPermits *int `yaml:"max_permits"`
}

// LockRules apply to the locks of one namespace; the fields are those of [Lock].
type LockRules struct {
	// DefaultTTL and MaxTTL are as in [Lock]; DefaultTTL never exceeds MaxTTL.
	DefaultTTL, MaxTTL time.Duration
	// MaxPermits is the maximum number of concurrent holders.
	MaxPermits int
}

// defaultLockTTL is the ttl of a lock where neither the request nor the policy says one.
const defaultLockTTL = 30 * time.Second

func (p Lock) over(d Lock) Lock {
	return Lock{
		DefaultTTL: cmp.Or(p.DefaultTTL, d.DefaultTTL), MaxTTL: cmp.Or(p.MaxTTL, d.MaxTTL), MaxPermits: cmp.Or(p.MaxPermits, d.MaxPermits),
	}
}

func lockRules(p Lock) LockRules {
	most := min(valueOr(p.MaxTTL, lock.MaxTTL), lock.MaxTTL)
	return LockRules{
		MaxTTL: most, DefaultTTL: min(valueOr(p.DefaultTTL, defaultLockTTL), most),
		MaxPermits: min(valueOr(p.MaxPermits, lock.MaxPermits), lock.MaxPermits),
	}
}

// locks checks the fields written for one namespace or as defaults; r are the rules that result from them.
func (c *checker) locks(p Lock, r LockRules) {
	of := ""
	if r.MaxTTL < lock.MaxTTL {
		of = "max_ttl"
	}
	between(c, "max_ttl", p.MaxTTL, lock.MinTTL, lock.MaxTTL, "")
	between(c, "default_ttl", p.DefaultTTL, lock.MinTTL, r.MaxTTL, of)
	between(c, "max_permits", p.MaxPermits, 1, lock.MaxPermits, "")
}
