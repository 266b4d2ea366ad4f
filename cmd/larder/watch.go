package main

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settleTime is the time without changes after which a file is read. Its writer may write it in parts.
	settleTime = 100 * time.Millisecond
	// rereadInterval is the interval at which a watched file is read without a change, for file systems that report none.
	rereadInterval = time.Minute
)

// watchFile calls reload after changes of a file, and at an interval, until ctx ends. What names the file in the log.
func watchFile(ctx context.Context, path, what string, log *slog.Logger, reload func()) {
	watchFolders(ctx, what+" file", func() []string { return []string{filepath.Dir(path)} }, log, reload)
}

// watchFolders calls reload after changes in the folders of some files, and at an interval, until ctx ends. It watches the
// folders: a watch of a file itself would not see another file that is renamed to its place, or the link that Kubernetes
// replaces to change a mounted ConfigMap or Secret. What names the files in the log. Folders are asked for again after each reload,
// because a link may lead to others by then.
func watchFolders(ctx context.Context, what string, folders func() []string, log *slog.Logger, reload func()) {
	var events chan fsnotify.Event
	var failures chan error
	watcher, err := fsnotify.NewWatcher()
	watch := func() (err error) {
		for _, folder := range folders() {
			err = errors.Join(err, watcher.Add(folder))
		}
		return err
	}
	if err == nil {
		defer func() { _ = watcher.Close() }()
		events, failures = watcher.Events, watcher.Errors
		err = watch()
	}
	if err != nil {
		log.Warn("the "+what+" cannot be watched and is read at an interval only", "interval", rereadInterval, "error", err.Error())
	}
	again := func() {
		reload()
		if watcher != nil {
			_ = watch() // what cannot be watched is read at the interval
		}
	}
	settled := time.NewTimer(0) // the files may have changed before the watch began
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
			log.Warn("watching the "+what+" failed", "error", err.Error())
			settled.Reset(settleTime)
		case <-interval.C:
			again()
		case <-settled.C:
			again()
		}
	}
}
