package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"github.com/berthcare/larder/service"
	"github.com/berthcare/larder/service/policy"
)

// maxPolicyBytes is the maximum size of the policy file, which holds thousands of namespaces.
const maxPolicyBytes = 256 << 10

// A policyFile applies the policy in a file to a server, again whenever the file changes.
type policyFile struct {
	path    string
	server  *service.Server
	metrics *service.Metrics
	log     *slog.Logger

	text  []byte // the text that was last tried; nil while the file cannot be read
	fault string // the error of the last try; empty if it was applied
}

// load reads the file and applies its policy. Its error is one line that names the file, and the line and the field if they
// are known. Changed is false if neither the text nor the error has changed since the last call.
func (p *policyFile) load() (changed bool, err error) {
	text, unread := readPolicy(p.path)
	if err = unread; err == nil {
		if p.text != nil && bytes.Equal(text, p.text) {
			return false, nil
		}
		p.text, p.fault = text, ""
		err = p.apply(text)
	}
	if err == nil {
		return true, nil
	}
	if unread != nil {
		p.text = nil // the file counts as changed when it can be read again, since its absence was reported
	}
	changed = err.Error() != p.fault
	p.fault = err.Error()
	return changed, err
}

// readPolicy reads the file. Its errors name the file once.
func readPolicy(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	var cause *fs.PathError
	switch {
	case errors.As(err, &cause):
		return nil, fmt.Errorf("%s: %w", path, cause.Err)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", path, err)
	case len(text) > maxPolicyBytes:
		return nil, fmt.Errorf("%s: is longer than %d bytes", path, maxPolicyBytes)
	}
	return text, nil
}

// apply parses a policy and applies it to the server. Its errors name the file, and the line if it is known.
func (p *policyFile) apply(text []byte) error {
	parsed, lines, err := parsePolicy(text)
	if err == nil {
		err = p.server.SetPolicy(parsed)
	}
	var wrong *policy.FieldError
	var at *policyError
	switch {
	case errors.As(err, &wrong):
		return fmt.Errorf("%s:%d: %w", p.path, lines[wrong.Field], wrong)
	case errors.As(err, &at):
		return fmt.Errorf("%s:%d: %s", p.path, at.line, at.what)
	}
	return err
}

// watch reloads the file whenever it changes, until ctx ends.
func (p *policyFile) watch(ctx context.Context) { watchFile(ctx, p.path, "policy", p.log, p.reload) }

// reload loads the file, and logs and counts the result if anything has changed.
func (p *policyFile) reload() {
	changed, err := p.load()
	if !changed {
		return
	}
	p.metrics.PolicyReloaded(err)
	if err != nil {
		p.log.Error("the policy file is rejected and the old policy stays in force", "error", err.Error())
		return
	}
	p.log.Info("the policy has changed", "file", p.path)
}
