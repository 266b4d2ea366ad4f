package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
)

// maxLine is the length of the longest line: more than the longest message that the client sends, in base64.
const maxLine = 96 << 20

// A checkpoint is how far a run of warm has come, and which run that was.
type checkpoint struct {
	Addr      string `json:"addr"`
	Namespace string `json:"namespace"`
	// Offset is the number of bytes, and Line that of lines, before the first line that is not known to be stored.
	Offset int64 `json:"offset"`
	Line   int64 `json:"line"`
	// SHA256 is that of the bytes before Offset. What comes after may be mended or added to.
	SHA256 string `json:"sha256"`

	Stored  int64 `json:"stored"`
	Expired int64 `json:"expired"`
	Bad     int64 `json:"bad"`
}

// A warmInput reads lines and knows how far it has come. A line that was read counts once it is accepted.
type warmInput struct {
	file    *os.File
	regular bool
	size    int64 // -1 if that is not known
	lines   *bufio.Reader
	raw     []byte // the line that was read last

	offset, line int64
	sum          hash.Hash
}

func openInput(ctx context.Context, path string, stdin *os.File) (*warmInput, error) {
	in := &warmInput{file: stdin, size: -1, sum: sha256.New()}
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		in.file = file
		info, err := file.Stat()
		if err == nil && info.IsDir() {
			err = fmt.Errorf("%s is a directory", path)
		}
		if err != nil {
			return nil, errors.Join(err, file.Close())
		}
		if in.regular = info.Mode().IsRegular(); in.regular {
			in.size = info.Size()
		}
	}
	var from io.Reader = in.file
	if !in.regular { // may be silent for ever, and takes no deadline
		reader, writer := io.Pipe()
		context.AfterFunc(ctx, func() { _ = writer.CloseWithError(ctx.Err()) })
		go func() {
			_, err := io.Copy(writer, in.file)
			_ = writer.CloseWithError(err)
		}()
		from = reader
	}
	in.lines = bufio.NewReaderSize(from, 1<<16)
	return in, nil
}

// next returns the next line, which is valid until the one after is read; io.EOF after the last.
func (in *warmInput) next() ([]byte, error) {
	in.raw = in.raw[:0]
	for {
		part, err := in.lines.ReadSlice('\n')
		in.raw = append(in.raw, part...)
		switch {
		case len(in.raw) > maxLine:
			return nil, fmt.Errorf("line %d is longer than %d bytes", in.line+1, maxLine)
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(in.raw) > 0:
			return bytes.TrimSpace(in.raw), nil
		case err != nil:
			return nil, err
		default:
			return bytes.TrimSpace(in.raw), nil
		}
	}
}

// accept moves on behind the line that was read last.
func (in *warmInput) accept() {
	in.offset += int64(len(in.raw))
	in.line++
	_, _ = in.sum.Write(in.raw)
}

// mark sets a checkpoint to here.
func (in *warmInput) mark(c *checkpoint) {
	c.Offset, c.Line, c.SHA256 = in.offset, in.line, hex.EncodeToString(in.sum.Sum(nil))
}

// resume skips what a checkpoint says is stored, if it is still there.
func (in *warmInput) resume(c checkpoint) error {
	n, err := io.CopyN(in.sum, in.lines, c.Offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	in.offset, in.line = n, c.Line
	here := checkpoint{}
	if in.mark(&here); here.Offset != c.Offset || here.SHA256 != c.SHA256 {
		return errors.New("what was sent of the file has been changed since: add --restart to begin at its first line")
	}
	return nil
}

// loadCheckpoint reads a checkpoint; false if there is none.
func loadCheckpoint(path string) (c checkpoint, found bool, err error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return c, false, nil
	}
	if err == nil && (json.Unmarshal(text, &c) != nil || c.SHA256 == "" || c.Offset < 0) {
		err = fmt.Errorf("%s is not a checkpoint: name another with --checkpoint, or add --restart", path)
	}
	return c, err == nil, err
}

// save writes the checkpoint in one step: whoever reads it finds this one or the one before, whole.
func (c checkpoint) save(path string) error {
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return writeWhole(path, func(w io.Writer) error {
		_, err := w.Write(append(text, '\n'))
		return err
	})
}

// writeWhole writes a file under another name and renames it when it is whole and on the disk.
func writeWhole(path string, write func(io.Writer) error) error {
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
