package ratelimit

// usageKey returns the Redis key of what a subject has used of a limit. The braces put all limits of a subject, and its
// reservations, in one slot of a cluster. A name contains no closing brace and no colon, so that different arguments make
// different keys, whatever the subject contains.
func usageKey(namespace string, c *Charge) string {
	return "ld:w:{" + namespace + ":" + c.Subject + "}:" + c.Name + ":" + letters[c.Rule.Algorithm]
}

// recordKey returns the Redis key of a reservation, or of the answer to a request that has an id.
func recordKey(namespace, subject, id string) string {
	return "ld:v:{" + namespace + ":" + subject + "}:" + id
}
