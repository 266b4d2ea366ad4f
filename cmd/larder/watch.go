package main

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settleTime is the time without changes after which a watched file is read. Its writer may write it in parts.
	settleTime = 100 * time.Millisecond
	// rereadInterval is the interval at which a watched file is read without a change, for file systems that report none.
	rereadInterval = time.Minute
)

// watchFile calls reload whenever a file may have changed, until ctx ends. It watches the folder of the file: a watch of the
// file itself would not see another file that is renamed to its place, or the link that Kubernetes replaces to change a mounted
// ConfigMap or Secret. What names the file in the log.
func watchFile(ctx context.Context, path, what string, log *slog.Logger, reload func()) {
	var events chan fsnotify.Event
	var failures chan error
	watcher, err := fsnotify.NewWatcher()
	if err == nil {
		defer func() { _ = watcher.Close() }()
		events, failures = watcher.Events, watcher.Errors
		err = watcher.Add(filepath.Dir(path))
	}
	if err != nil {
		log.Warn("the "+what+" file cannot be watched and is read at an interval only", "interval", rereadInterval, "error", err.Error())
	}
	settled := time.NewTimer(0) // the file may have changed before the watch began
	defer settled.Stop()
	interval := time.NewTicker(rereadInterval)
	defer interval.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-events:
			settled.Reset(settleTime)
		case err := <-failures: // for example, the queue of the kernel has overflowed and events are lost
			log.Warn("watching the "+what+" file failed", "error", err.Error())
			settled.Reset(settleTime)
		case <-interval.C:
			reload()
		case <-settled.C:
			reload()
		}
	}
}
