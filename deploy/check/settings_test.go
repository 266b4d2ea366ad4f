package check

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	credential = regexp.MustCompile(`(?i)passw|secret|token|credential|private|api_?key`)
	mention    = regexp.MustCompile(`\b(?:LARDER|REDIS)_[A-Z0-9_]+\b`)
	inHelp     = regexp.MustCompile(`\$([A-Z][A-Z0-9_]*)`)
)

// A misspelt variable is ignored in silence, so every name used here must be one that the binary prints.
func TestEveryVariableIsKnownToTheBinary(t *testing.T) {
	cmd := exec.Command("go", "run", "./cmd/larder", "serve", "--help")
	cmd.Dir = root
	help, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("larder serve --help: %v, want no error\n%s", err, help)
	}
	known := map[string]bool{"GOMEMLIMIT": true} // read by the Go runtime itself
	for _, match := range inHelp.FindAllStringSubmatch(string(help), -1) {
		known[match[1]] = true
	}
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatalf("ReadFile: %v", err)
	}
	for where, names := range map[string][]string{
		"kubernetes":   settingsIn(render(t)),
		"compose.yaml": slices.Collect(maps.Keys(compose(t).Services["larder"].Environment)),
		"Dockerfile":   slices.Collect(maps.Keys(imageEnv(t))),
		"README.md":    mention.FindAllString(string(readme), -1),
	} {
		if len(names) == 0 {
			t.Errorf("%s names no variable, want at least one", where)
		}
		for _, name := range names {
			if !known[name] {
				t.Errorf("%s uses %s, want a variable that `larder serve --help` lists", where, name)
			}
		}
	}
}

// settingsIn names every environment variable that the pods get.
func settingsIn(c cluster) []string {
	names := slices.Collect(maps.Keys(c.config.Data))
	for _, variable := range c.container().Env {
		names = append(names, variable.Name)
	}
	return names
}

// Other people copy these files: a real value must never be among them.
func TestNoURLCarriesAPassword(t *testing.T) {
	for where, url := range map[string]string{
		"configmap.yaml": render(t).config.Data["REDIS_URL"],
		"compose.yaml":   *compose(t).Services["larder"].Environment["REDIS_URL"],
	} {
		if !strings.HasPrefix(url, "redis://") || strings.Contains(url, "@") {
			t.Errorf("%s: REDIS_URL = %q, want one that begins with redis:// and has no credentials", where, url)
		}
	}
}

// shown returns a value as JSON for the message of a failure: fmt would print the addresses of pointers.
func shown(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		return err.Error()
	}
	return string(text)
}
