package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/berthcare/larder/service"
	"github.com/berthcare/larder/service/edge/rls"
)

// rateLimitFiles apply the configuration of Envoy's rate limits to a server, again whenever one of the files changes.
type rateLimitFiles struct {
	paths   []string
	options rls.LoadOptions
	server  *service.Server
	metrics *service.Metrics
	log     *slog.Logger

	files []rls.File // those that were last tried; nil while they cannot be read
	fault string     // the error of the last try; empty if it was applied
}

// load reads the files and applies them. Its error has a line for each mistake, with file, line and path. Changed is false if
// neither the files nor the error have changed since the last call.
func (r *rateLimitFiles) load() (changed bool, err error) {
	files, err := rls.ReadFiles(r.paths)
	if err == nil {
		if r.files != nil && rls.Equal(files, r.files) {
			return false, nil
		}
		r.files, r.fault = files, ""
		var config *rls.Config
		if config, err = rls.Load(files, r.options); err == nil {
			r.server.SetEnvoyRateLimits(config)
			for _, warning := range config.Warnings {
				r.log.Warn("a part of the rate limit files has no effect", "where", warning)
			}
			return true, nil
		}
	} else {
		r.files = nil // the files count as changed when they can be read again, since their absence was reported
	}
	changed = err.Error() != r.fault
	r.fault = err.Error()
	return changed, err
}

// watch reloads the files whenever one of them changes, until ctx ends.
func (r *rateLimitFiles) watch(ctx context.Context) {
	watchFolders(ctx, "rate limit files", r.folders, r.log, r.reload)
}

// folders returns the folders in which a change may change the configuration: those of the files, and those that have a link
// on the way to them, because other implementations are told of new files by a link that is replaced.
func (r *rateLimitFiles) folders() (folders []string) {
	for _, path := range r.paths {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			folders = append(folders, path)
		} else {
			folders = append(folders, filepath.Dir(path))
		}
		for above := path; above != filepath.Dir(above); above = filepath.Dir(above) {
			if info, err := os.Lstat(above); err == nil && info.Mode()&os.ModeSymlink != 0 {
				folders = append(folders, filepath.Dir(above))
			}
		}
	}
	return folders
}

// reload loads the files, and logs and counts the result if anything has changed.
func (r *rateLimitFiles) reload() {
	changed, err := r.load()
	if !changed {
		return
	}
	r.metrics.EnvoyRateLimitsReloaded(err)
	if err != nil {
		r.log.Error("the rate limit files are rejected and the old rules stay in force", "error", err.Error())
		return
	}
	r.log.Info("the rate limits have changed", "files", len(r.files))
}
