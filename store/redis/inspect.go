package redis

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// inspect asserts the mode and the version of Redis, and returns the version.
func (c *Client) inspect(ctx context.Context, primary rueidis.Client) (version string, err error) {
	if c.options.Mode == Embedded {
		return "embedded", nil
	}
	info, err := c.serverInfo(ctx, primary)
	if isDenied(err) {
		// The greeting tells the same, and appraise warns that INFO is denied.
		if info, err = greeting(ctx, primary); err == nil {
			info["redis_mode"], info["redis_version"] = info["mode"], info["version"]
			if info["server"] == "valkey" {
				info["valkey_version"] = info["version"]
			}
		}
	}
	if err != nil {
		return "", connectError(err)
	}
	want := "standalone" // the primary that sentinels monitor reports this mode, too
	if c.options.Mode == Cluster {
		want = "cluster"
	}
	// Valkey calls the mode server_mode, and redis_mode only if it is told to.
	if got := cmp.Or(info["redis_mode"], info["server_mode"]); got != want {
		return "", wrongMode(fmt.Sprintf("redis runs as %s, the configuration says %s", got, c.options.Mode))
	}
	major, _, _ := strings.Cut(info["redis_version"], ".")
	if n, err := strconv.Atoi(major); err != nil || n < 7 {
		return "", wrongMode(fmt.Sprintf("redis is version %q, the oldest supported is 7.0; the oldest Valkey is 7.2", info["redis_version"]))
	}
	if v := info["valkey_version"]; v != "" {
		return "valkey " + v, nil
	}
	return info["redis_version"], nil
}

// serverInfo returns what the server says of itself, or the first node that answers.
func (c *Client) serverInfo(ctx context.Context, primary rueidis.Client) (map[string]string, error) {
	type answer struct {
		text string
		err  error
	}
	nodes := primary.Nodes()
	answers := make(chan answer, len(nodes))
	for _, node := range nodes {
		go func() {
			// Not the caller's context: the end of that would end the dialling of nodes which answer later.
			ctx, cancel := context.WithTimeout(c.lifetime, c.options.CommandTimeout)
			defer cancel()
			text, err := node.Do(ctx, node.B().Info().Section("server").Build()).ToString()
			answers <- answer{text, err}
		}()
	}
	err := rueidis.ErrNoAddr
	for range nodes {
		select {
		case a := <-answers:
			if a.err == nil {
				return infoFields(a.text), nil
			}
			err = a.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return nil, err
}

// WarningSettings are the values of [Warning].Setting.
var WarningSettings = []string{"appendonly", "info", "maxmemory-policy", "replicas"}

// A Warning is a setting of Redis with which it may lose or evict what it has acknowledged, such as a revocation.
type Warning struct {
	// Setting is the setting's name in redis.conf, "replicas" for their number, or "info" where Redis does not tell. It is one
	// of a small fixed set.
	Setting string
	// Problem says what is wrong with it, for the operator. It holds no addresses.
	Problem string
}

// String returns the setting and what is wrong with it.
func (w Warning) String() string { return w.Setting + " " + w.Problem }

// Warnings returns what is wrong with the settings of Redis, as of the last minute, ordered by setting; none before Connect has
// succeeded. The slice must not be changed.
func (c *Client) Warnings() []Warning {
	if w := c.warnings.Load(); w != nil {
		return *w
	}
	return nil
}

// appraiseEvery is how often the settings of Redis are looked at again.
const appraiseEvery = time.Minute

// appraise looks at the settings of every primary, and logs those that it warns of when they change. It fails if Strict is set
// and there are any. A Redis that does not tell is not asked for more rights than Larder needs otherwise.
func (c *Client) appraise(ctx context.Context, conns *Conns) error {
	if c.options.Mode == Embedded {
		return nil
	}
	var mu sync.Mutex
	var warnings []Warning
	told := true // by all
	var asked sync.WaitGroup
	for addr, node := range conns.Primary.Nodes() {
		if primary, _ := c.roles.Load(addr); c.options.Mode == Cluster && primary != true {
			continue
		}
		asked.Go(func() {
			w, err := c.settings(ctx, node)
			mu.Lock()
			defer mu.Unlock()
			warnings, told = append(warnings, w...), told && err == nil
		})
	}
	asked.Wait()
	slices.SortFunc(warnings, func(a, b Warning) int {
		return cmp.Or(cmp.Compare(a.Setting, b.Setting), cmp.Compare(a.Problem, b.Problem))
	})
	warnings = slices.Compact(warnings)
	if c.options.Strict && len(warnings) > 0 && c.conns.Load() == nil {
		return unsafe(warnings)
	}
	before := c.Warnings()
	for _, w := range warnings {
		if !slices.Contains(before, w) {
			c.options.Logger.Warn("redis may lose what it has acknowledged", "setting", w.Setting, "problem", w.Problem)
		}
	}
	if told || len(before) == 0 {
		c.warnings.Store(&warnings)
	}
	return nil
}

func unsafe(warnings []Warning) error {
	texts := make([]string, len(warnings))
	for i, w := range warnings {
		texts[i] = w.String()
	}
	return fmt.Errorf("%w: %s", ErrUnsafe, strings.Join(texts, "; "))
}

// settings returns what is wrong with the settings of one primary, or an error if it does not answer.
func (c *Client) settings(ctx context.Context, node rueidis.Client) ([]Warning, error) {
	// The right to INFO may be limited to its first argument.
	text, err := node.Do(ctx, node.B().Info().Section("server", "memory", "persistence", "replication").Build()).ToString()
	var re *rueidis.RedisError
	switch {
	case errors.As(err, &re):
		return []Warning{{"info", "does not tell the settings: " + code(re)}}, nil
	case err != nil:
		return nil, err
	}
	return c.judgeSettings(infoFields(text)), nil
}

// judgeSettings returns what is wrong with the settings of one primary. Fields that a server does not have tell nothing.
func (c *Client) judgeSettings(info map[string]string) (warnings []Warning) {
	if policy := cmp.Or(info["maxmemory_policy"], "noeviction"); policy != "noeviction" {
		warnings = append(warnings, Warning{"maxmemory-policy", "is " + policy + ": when memory is full Redis evicts sessions and revocations; set noeviction"})
	}
	if info["aof_enabled"] == "0" {
		warnings = append(warnings, Warning{"appendonly", "is no: when Redis crashes it forgets what it has acknowledged since its last snapshot, revocations too; set yes"})
	}
	if c.options.Mode != Standalone && info["connected_slaves"] == "0" {
		warnings = append(warnings, Warning{"replicas", "are none: nothing takes over from a primary that dies; add one"})
	}
	return warnings
}

// code returns what an error of Redis begins with. The rest may repeat arguments.
func code(re *rueidis.RedisError) string {
	code, _, _ := strings.Cut(re.Error(), " ")
	return code
}
