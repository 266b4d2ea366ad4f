package warm

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
)

// maxLine is the maximum length of a line: more than the largest message that the client sends takes in base64.
const maxLine = 96 << 20

// An input reads lines and keeps its position, which moves on when a line is accepted.
type input struct {
	file    *os.File
	regular bool  // a file that can be read again; false for pipes and devices
	size    int64 // -1 if it is unknown
	lines   *bufio.Reader
	raw     []byte // the last line that was read, with its line break

	offset, line int64     // bytes and lines that were accepted
	sum          hash.Hash // SHA-256 of the bytes that were accepted
}

// openInput opens the file at path, or takes stdin if path is "-". When ctx ends, reads from a pipe or device fail.
func openInput(ctx context.Context, path string, stdin *os.File) (*input, error) {
	in := &input{file: stdin, size: -1, sum: sha256.New()}
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
	if !in.regular {
		// A read from a pipe or a terminal can block for ever and takes no deadline. It is done by a goroutine of its own,
		// which stays blocked in the read when ctx ends.
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

// next returns the next line without surrounding white space, or io.EOF after the last line. The line is valid until the
// next call.
func (in *input) next() ([]byte, error) {
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

// accept moves the position behind the last line that was read.
func (in *input) accept() {
	in.offset += int64(len(in.raw))
	in.line++
	_, _ = in.sum.Write(in.raw)
}

// mark writes the position into a checkpoint.
func (in *input) mark(c *checkpoint) {
	c.Offset, c.Line, c.SHA256 = in.offset, in.line, hex.EncodeToString(in.sum.Sum(nil))
}

// resume moves to the position of a checkpoint. It fails if the bytes before that position have changed since.
func (in *input) resume(c checkpoint) error {
	n, err := io.CopyN(in.sum, in.lines, c.Offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	in.offset, in.line = n, c.Line
	here := checkpoint{}
	if in.mark(&here); here.Offset != c.Offset || here.SHA256 != c.SHA256 {
		return errors.New("lines that were already sent have changed: add --restart to begin at the first line")
	}
	return nil
}
