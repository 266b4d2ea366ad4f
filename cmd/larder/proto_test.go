package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// The tests in this file check what the rules of buf do not cover. `make lint` runs the tests whose names begin with TestProto.

// apis calls visit with each of Larder's own proto files.
func apis(t *testing.T, visit func(file protoreflect.FileDescriptor)) {
	t.Helper()
	found := 0
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if strings.HasPrefix(file.Path(), "larder/") {
			found++
			visit(file)
		}
		return true
	})
	onDisk, err := filepath.Glob("../../proto/larder/*/v1/*.proto")
	if err != nil || found == 0 || found != len(onDisk) {
		t.Errorf("%d proto files are compiled in and %d are in proto, want the same number above zero: %v", found, len(onDisk), err)
	}
}

// The compilers of all languages come with these files; others would need a registry.
func TestProtoImportsAreGooglesOwn(t *testing.T) {
	t.Parallel()
	apis(t, func(file protoreflect.FileDescriptor) {
		for i := range file.Imports().Len() {
			if path := file.Imports().Get(i).Path(); !strings.HasPrefix(path, "google/protobuf/") {
				t.Errorf("%s imports %s, want google/protobuf/ only", file.Path(), path)
			}
		}
	})
}

// The server and the clients retry an rpc by its declaration, so a missing one is a mistake.
func TestProtoDeclaresIdempotency(t *testing.T) {
	t.Parallel()
	apis(t, func(file protoreflect.FileDescriptor) {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				method := service.Methods().Get(j)
				if options, ok := method.Options().(*descriptorpb.MethodOptions); !ok || options.IdempotencyLevel == nil {
					t.Errorf("%s declares no idempotency_level, want one", method.FullName())
				}
			}
		}
	})
}

var (
	declaration = regexp.MustCompile(`^\s*(?:(?:service|rpc|message|enum|oneof) (\w+)|(?:(?:repeated |optional )?(?:map<[^>]+>|[\w.]+) )?(\w+) = \d+\b)`)
	comment     = regexp.MustCompile(`^\s*// ?(.*)`)
)

// In the documentation of every language a comment stands beside the name that it describes.
func TestProtoCommentsBeginWithTheName(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("../../proto/larder/*/v1/*.proto")
	if err != nil || len(paths) == 0 {
		t.Fatalf("found the proto files %q, %v; want some", paths, err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		first, checked := "", 0
		for line := range strings.Lines(string(text)) {
			if words := comment.FindStringSubmatch(line); words != nil {
				if first == "" {
					first = words[1]
				}
				continue
			}
			if names := declaration.FindStringSubmatch(line); names != nil {
				name := names[1] + names[2]
				checked++
				if !strings.HasPrefix(first, name+" ") && !strings.HasPrefix(first, name+",") {
					t.Errorf("%s: the comment of %s begins with %q, want it to begin with the name", path, name, first)
				}
			}
			first = ""
		}
		if checked < 20 {
			t.Errorf("%s: the test has found %d declarations, want at least 20", path, checked)
		}
	}
}
