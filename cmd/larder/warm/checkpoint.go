package warm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// A checkpoint records which run of warm it belongs to, and the position before the first line that the server has not
// acknowledged.
type checkpoint struct {
	Addr      string `json:"addr"`
	Namespace string `json:"namespace"`
	// Offset and Line are the bytes and the lines before the position.
	Offset int64 `json:"offset"`
	Line   int64 `json:"line"`
	// SHA256 is the hash of the bytes before the position. The bytes behind it may change between two runs.
	SHA256 string `json:"sha256"`

	Stored  int64 `json:"stored"`
	Expired int64 `json:"expired"`
	Bad     int64 `json:"bad"`
}

// loadCheckpoint reads a checkpoint file. Found is false if the file does not exist.
func loadCheckpoint(path string) (c checkpoint, found bool, err error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return c, false, nil
	}
	if err == nil && (json.Unmarshal(text, &c) != nil || c.SHA256 == "" || c.Offset < 0) {
		err = fmt.Errorf("%s is not a checkpoint: choose another --checkpoint, or add --restart", path)
	}
	return c, err == nil, err
}

// save replaces the checkpoint file.
func (c checkpoint) save(path string) error {
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return replaceFile(path, func(w io.Writer) error {
		_, err := w.Write(append(text, '\n'))
		return err
	})
}

// replaceFile writes a temporary file and renames it to path once it is complete and synced, so that readers of path see
// the old content or the new one, never a part.
func replaceFile(path string, write func(io.Writer) error) error {
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	err = write(file)
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		_ = os.Remove(file.Name())
	}
	return err
}
