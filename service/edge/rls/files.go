package rls

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	// maxFileBytes is the maximum size of one file, which holds tens of thousands of rules.
	maxFileBytes = 4 << 20
	// maxFiles is the maximum number of files.
	maxFiles = 1000
)

// extensions are the names of files that hold what only Larder knows of. Other implementations must not read them, so they
// are named apart from the files of rules.
var extensions = []string{"larder.yaml", "larder.yml"}

// A File is the text of a configuration file.
type File struct {
	Path string
	Text []byte
}

// isExtension reports whether the file is an extension file, which its name says.
func (f File) isExtension() bool { return slices.Contains(extensions, filepath.Base(f.Path)) }

// ReadFiles reads configuration files. Of a path that is a folder it reads all files in it whose names end in .yaml or
// .yml, in alphabetical order, except those that begin with a dot; it does not look into folders in it. A path with no such
// file is an error.
func ReadFiles(paths []string) ([]File, error) {
	var files []File
	for _, path := range paths {
		names := []string{path}
		info, err := os.Stat(path)
		if err != nil {
			return nil, unread(path, err)
		}
		if info.IsDir() {
			if names, err = namesIn(path); err != nil {
				return nil, err
			}
		}
		for _, name := range names {
			if len(files) == maxFiles {
				return nil, &LoadError{File: path, Problem: fmt.Sprintf("has too many files; the maximum is %d", maxFiles)}
			}
			text, err := os.ReadFile(name) //nolint:gosec // the operator names the files
			switch {
			case err != nil:
				return nil, unread(name, err)
			case len(text) > maxFileBytes:
				return nil, &LoadError{File: name, Problem: fmt.Sprintf("is longer than %d bytes", maxFileBytes)}
			}
			files = append(files, File{name, text})
		}
	}
	return files, nil
}

// namesIn returns the files of a folder that ReadFiles reads.
func namesIn(folder string) (names []string, err error) {
	entries, err := os.ReadDir(folder) // sorted by name
	if err != nil {
		return nil, unread(folder, err)
	}
	for _, entry := range entries {
		name := filepath.Join(folder, entry.Name())
		extension := filepath.Ext(name)
		if strings.HasPrefix(entry.Name(), ".") || extension != ".yaml" && extension != ".yml" {
			continue
		}
		if info, err := os.Stat(name); err != nil || !info.Mode().IsRegular() { // entry would tell of a link, not of its target
			continue
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		return nil, &LoadError{File: folder, Problem: "has no file that ends in .yaml or .yml"}
	}
	return names, nil
}

// unread returns an error that names the path once.
func unread(path string, err error) error {
	if cause := (*fs.PathError)(nil); errors.As(err, &cause) {
		err = cause.Err
	}
	return &LoadError{File: path, Problem: err.Error()}
}

// Equal reports whether two sets of files are the same.
func Equal(a, b []File) bool {
	return slices.EqualFunc(a, b, func(a, b File) bool { return a.Path == b.Path && bytes.Equal(a.Text, b.Text) })
}
