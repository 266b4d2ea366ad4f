package check

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

const root = "../.."

// stages reads the Dockerfile as BuildKit does and fails on anything that it would refuse or warn of.
func stages(t *testing.T) []instructions.Stage {
	t.Helper()
	file, err := os.Open(filepath.Join(root, "Dockerfile"))
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	defer file.Close()
	tree, err := parser.Parse(file)
	if err != nil {
		t.Fatalf("parser.Parse: %v", err)
	}
	for _, warning := range tree.Warnings {
		t.Errorf("BuildKit warns of the Dockerfile: %s; want no warning", warning.Short)
	}
	all, _, err := instructions.Parse(tree.AST, nil)
	if err != nil {
		t.Fatalf("instructions.Parse: %v", err)
	}
	if len(all) != 2 {
		t.Fatalf("the Dockerfile has %d stages, want one that builds and one that runs", len(all))
	}
	return all
}

// commands returns a stage's instructions of one kind, in order.
func commands[C instructions.Command](stage instructions.Stage) []C {
	var found []C
	for _, command := range stage.Commands {
		if c, ok := command.(C); ok {
			found = append(found, c)
		}
	}
	return found
}

func only[C instructions.Command](t *testing.T, stage instructions.Stage) C {
	t.Helper()
	found := commands[C](stage)
	if len(found) != 1 {
		t.Fatalf("stage %q has %d %T instructions, want 1", stage.BaseName, len(found), *new(C))
	}
	return found[0]
}

func final(t *testing.T) instructions.Stage { t.Helper(); return stages(t)[1] }

func exposedPorts(t *testing.T) []int32 {
	t.Helper()
	var ports []int32
	for _, text := range only[*instructions.ExposeCommand](t, final(t)).Ports {
		port, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			t.Fatalf("EXPOSE %s: %v, want a number", text, err)
		}
		ports = append(ports, int32(port))
	}
	return ports
}

func imageUser(t *testing.T) string {
	t.Helper()
	return only[*instructions.UserCommand](t, final(t)).User
}

func imageEnv(t *testing.T) map[string]string {
	t.Helper()
	env := map[string]string{}
	for _, pair := range only[*instructions.EnvCommand](t, final(t)).Env {
		env[pair.Key] = pair.Value
	}
	return env
}

func TestBuilderCachesDependencies(t *testing.T) {
	build := stages(t)[0]
	module, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatalf("ReadFile: %v", err)
	}
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(module)
	if version == nil {
		t.Fatalf("go.mod names no Go version, want a line that begins with go and a version:\n%s", module)
	}
	if build.BaseName != "golang:"+string(version[1])+"-bookworm" {
		t.Errorf("the builder is based on %s, want golang:%s-bookworm as go.mod says", build.BaseName, version[1])
	}
	var steps []string
	for _, command := range build.Commands {
		switch c := command.(type) {
		case *instructions.CopyCommand:
			steps = append(steps, "COPY "+strings.Join(c.SourcePaths, " "))
		case *instructions.RunCommand:
			steps = append(steps, "RUN "+strings.Join(c.CmdLine, " "))
		}
	}
	if len(steps) != 4 || !slices.Equal(steps[:3], []string{"COPY go.mod go.sum", "RUN go mod download", "COPY ."}) {
		t.Errorf("the builder's steps are %q, want 4: go.mod and go.sum copied, the modules downloaded, the sources copied, the binary built", steps)
	}
}

func TestFinalImage(t *testing.T) {
	image := final(t)
	if image.BaseName != "gcr.io/distroless/static-debian12:nonroot" {
		t.Errorf("the final image is based on %s, want gcr.io/distroless/static-debian12:nonroot", image.BaseName)
	}
	if uid, _, _ := strings.Cut(imageUser(t), ":"); uid != "65532" {
		t.Errorf("the final image runs as %q, want distroless's nonroot as the number 65532, which runAsNonRoot can check", uid)
	}
	if runs := commands[*instructions.RunCommand](image); len(runs) != 0 {
		t.Errorf("the final image has %d RUN instructions, want none: it has no shell", len(runs))
	}
	from := only[*instructions.CopyCommand](t, image)
	if from.From != stages(t)[0].Name || from.DestPath != "/larder" {
		t.Errorf("the final image copies %v from %q to %s, want the binary from %q to /larder", from.SourcePaths, from.From, from.DestPath, stages(t)[0].Name)
	}

	entry, arguments := only[*instructions.EntrypointCommand](t, image), only[*instructions.CmdCommand](t, image)
	if entry.PrependShell || arguments.PrependShell || !slices.Equal(slices.Concat(entry.CmdLine, arguments.CmdLine), []string{"/larder", "serve"}) {
		t.Errorf("the image starts %q %q, in a shell: %v and %v; want /larder serve in none", entry.CmdLine, arguments.CmdLine, entry.PrependShell, arguments.PrependShell)
	}
	if check := only[*instructions.HealthCheckCommand](t, image).Health.Test; !slices.Equal(check, []string{"CMD", "/larder", "probe"}) {
		t.Errorf("the image checks its health by %q, want the exec form of /larder probe: it has no shell", check)
	}

	ports, env := exposedPorts(t), imageEnv(t)
	for i, name := range []string{"LARDER_GRPC_ADDR", "LARDER_ADMIN_ADDR"} {
		if len(ports) != 2 || env[name] != ":"+strconv.Itoa(int(ports[i])) {
			t.Errorf("%s = %q and the image exposes %v, want 2 ports and the address of number %d of them", name, env[name], ports, i+1)
		}
	}
	labels := map[string]string{}
	for _, label := range only[*instructions.LabelCommand](t, image).Labels {
		labels[strings.TrimPrefix(label.Key, "org.opencontainers.image.")] = label.Value
	}
	for _, name := range []string{"title", "description", "source", "version"} {
		if labels[name] == "" {
			t.Errorf("the image has the labels %v, want org.opencontainers.image.%s among them", labels, name)
		}
	}
}

// Whoever can pull an image can read its ENV, and ARG values stay in its history.
func TestImageHoldsNoSecret(t *testing.T) {
	for _, stage := range stages(t) {
		var names []string
		for _, env := range commands[*instructions.EnvCommand](stage) {
			for _, pair := range env.Env {
				names = append(names, pair.Key)
			}
		}
		for _, arg := range commands[*instructions.ArgCommand](stage) {
			for _, pair := range arg.Args {
				names = append(names, pair.Key)
			}
		}
		for _, name := range names {
			if credential.MatchString(name) {
				t.Errorf("stage %s sets %s, want no credential in ENV or ARG", stage.BaseName, name)
			}
		}
	}
}
