package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/berthcare/larder/service"
	"github.com/berthcare/larder/service/policy"
)

const (
	// policySettles is how long the policy file must be left alone before it is read, as it may be written in parts.
	policySettles = 100 * time.Millisecond
	// policyLooks is how often the file is looked at besides, for file systems that do not tell of changes.
	policyLooks = time.Minute
	// maxPolicyBytes is room for thousands of namespaces.
	maxPolicyBytes = 256 << 10
	// maxPolicyDepth is more than a policy has.
	maxPolicyDepth = 8
)

// A policyFile keeps a server under the policy of a file.
type policyFile struct {
	path    string
	server  *service.Server
	metrics *service.Metrics
	log     *slog.Logger

	text  []byte // what was last tried to be put in force; nil while the file cannot be read
	fault string // why the last try came to nothing
}

// load puts the policy of the file in force. Its error is one line that names the file, and the line and the field where
// they are known. Changed says that there was something new to try.
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
		p.text = nil // whoever reads that the file is gone is to read that it is back
	}
	changed = err.Error() != p.fault
	p.fault = err.Error()
	return changed, err
}

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

// watch loads the file whenever it changes, until ctx ends. It watches the folder, where a file that takes the place of
// another is seen, and so is the link that Kubernetes replaces to change a mounted ConfigMap.
func (p *policyFile) watch(ctx context.Context) {
	var events chan fsnotify.Event
	var failures chan error
	watcher, err := fsnotify.NewWatcher()
	if err == nil {
		defer func() { _ = watcher.Close() }()
		events, failures = watcher.Events, watcher.Errors
		err = watcher.Add(filepath.Dir(p.path))
	}
	if err != nil {
		p.log.Warn("changes of the policy file are noticed late", "every", policyLooks.String(), "error", err.Error())
	}
	settled := time.NewTimer(0) // for it may have changed since the start
	defer settled.Stop()
	looks := time.NewTicker(policyLooks)
	defer looks.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-events:
			settled.Reset(policySettles)
		case err := <-failures: // such as more events than there was room for
			p.log.Warn("watching the policy file", "error", err.Error())
			settled.Reset(policySettles)
		case <-looks.C:
			p.reload()
		case <-settled.C:
			p.reload()
		}
	}
}

// reload loads the file and tells what came of it.
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
