package service

import (
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthcare/larder/service/policy"
	"github.com/berthcare/larder/store/ratelimit"
)

// maxRuleLabels is the maximum number of rules that become labels of metrics; others are counted together.
const maxRuleLabels = 1000

// decisions counts what limits have decided.
type decisions struct {
	policies *policy.Policies
	total    *prometheus.CounterVec

	mu    sync.RWMutex
	rules map[ruleLabel]*ruleCounters
}

// A ruleLabel names a rule in metrics.
type ruleLabel struct{ namespace, rule string }

type ruleCounters struct{ allowed, denied, shadow, degraded prometheus.Counter }

// count counts the decisions of the limits of one call.
func (d *decisions) count(namespace string, charges []ratelimit.Charge, decision *ratelimit.Decision) {
	for i := range charges {
		c, r := d.of(namespace, charges[i].Name), &decision.Results[i]
		switch {
		case r.Degraded:
			c.degraded.Inc()
		case r.Outcome == ratelimit.Allowed:
			c.allowed.Inc()
		case charges[i].Rule.Shadow:
			c.shadow.Inc()
		default:
			c.denied.Inc()
		}
	}
}

// of returns the counters of a rule. Callers can invent rules and namespaces: only those that the policy names become labels.
func (d *decisions) of(namespace, rule string) *ruleCounters {
	label := ruleLabel{namespace, rule}
	if strings.HasPrefix(rule, inlinePrefix) {
		label.rule = "_inline"
	}
	if !d.policies.Named(namespace) {
		label.namespace = otherNamespaces
	}
	d.mu.RLock()
	c := d.rules[label]
	d.mu.RUnlock()
	if c != nil {
		return c
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.rules) >= maxRuleLabels { // over time a policy may name any number
		label = ruleLabel{otherNamespaces, "_other"}
	}
	if c = d.rules[label]; c == nil {
		of := func(outcome string) prometheus.Counter {
			return d.total.WithLabelValues(label.namespace, label.rule, outcome)
		}
		c = &ruleCounters{of("allowed"), of("denied"), of("shadow_denied"), of("degraded")}
		d.rules[label] = c
	}
	return c
}
