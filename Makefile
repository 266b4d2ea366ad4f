# Needs Go, make and git; everything else is built into .tmp/bin at the versions below.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --warn-undefined-variables --no-builtin-rules --no-print-directory

BUF_VERSION           := v1.75.0
GOLANGCI_LINT_VERSION := v2.15.0
GRPCURL_VERSION       := v1.9.4

BIN           := $(CURDIR)/.tmp/bin
BUF           := $(BIN)/buf-$(BUF_VERSION)
GOLANGCI_LINT := $(BIN)/golangci-lint-$(GOLANGCI_LINT_VERSION)
GRPCURL       := $(BIN)/grpcurl
PLUGINS       := $(BIN)/protoc-gen-go $(BIN)/protoc-gen-go-grpc

VERSION  := $(shell git describe --tags --always 2>/dev/null || echo dev)
FUZZTIME ?= 10s
BENCH    ?=
# Packages start their own redis-servers, so they run one after the other; within one, tests are parallel.
TEST     := go test -race -p 1 -timeout 20m

.PHONY: all
all: lint check-generate test build ## Everything that CI checks, and the binary

.PHONY: build
build: ## Compile ./larder
	go build -trimpath -ldflags "-X main.version=$(VERSION)" -o larder ./cmd/larder

.PHONY: run
run: build ## Serve on 127.0.0.1:50051, from memory unless the environment names a Redis
	@[ -n "$${REDIS_URL-}$${REDIS_CLUSTER_NODES-}$${REDIS_SENTINEL_NODES-}" ] || export REDIS_URL=embedded://; \
	  LARDER_LOG_FORMAT=$${LARDER_LOG_FORMAT:-text} exec ./larder serve

.PHONY: generate
generate: $(BUF) $(PLUGINS) ## Rewrite gen/ from proto/, and the settings in docs/operating.md from cmd/larder/config.go
	PATH="$(BIN):$$PATH" $(BUF) generate --clean
	go test ./cmd/larder -count=1 -run '^TestDocsListEverySetting$$' -update

.PHONY: check-generate
check-generate: generate ## Fail if gen/ is not what proto/ gives
	@changed=$$(git status --porcelain -- gen); \
	  if [ -n "$$changed" ]; then echo "make generate changes what is committed:"; echo "$$changed"; exit 1; fi

.PHONY: lint
lint: lint-go lint-proto ## Check the style of Go and of the proto files

.PHONY: lint-go
lint-go: $(GOLANGCI_LINT)
	@unformatted=$$(gofmt -l client cmd service store deploy docs); \
	  if [ -n "$$unformatted" ]; then echo "gofmt wants:"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	$(GOLANGCI_LINT) run ./...
	go vet -tags envoy ./deploy/envoy
	cd deploy/check && go vet ./...
	cd docs/check && go vet ./...

# Breaking changes are looked for since the last release, or else since what is on the main branch.
.PHONY: lint-proto
lint-proto: $(BUF)
	$(BUF) lint
	$(BUF) format --diff --exit-code
	go test ./cmd/larder -run '^TestProto'
	@for base in $$(git describe --tags --abbrev=0 2>/dev/null) origin/main; do \
	  if git cat-file -e "$$base:buf.yaml" 2>/dev/null; then \
	    echo "buf breaking against $$base"; \
	    git archive --format=tar "$$base" buf.yaml proto | $(BUF) breaking --against -#format=tar; \
	    exit; \
	  fi; \
	done; \
	echo "buf breaking: nothing to compare against"

.PHONY: test
test: redis envoy $(GRPCURL) ## Run every test, with the race detector, on real redis-servers (about 8 minutes)
	@echo "Every test in every topology, with the race detector: about 8 minutes on 2 cores. make test-short takes less than 2."
	$(TEST) ./...
	cd deploy/check && go test -count=1 -timeout 10m ./...
	cd docs/check && go test -count=1 -timeout 10m ./...
	@if [ -x .tmp/envoy/bin/envoy ]; then \
	  echo "go test -tags envoy ./deploy/envoy"; go test -tags envoy -count=1 -timeout 10m ./deploy/envoy; \
	else echo "No Envoy could be fetched: the tests in deploy/envoy, which need one, did not run. Those of its protocol did."; fi

.PHONY: test-envoy
test-envoy: redis envoy ## Run the tests with a real Envoy
	go test -tags envoy -count=1 -timeout 10m ./deploy/envoy

.PHONY: test-short
test-short: redis $(GRPCURL) ## Run the tests on one redis-server, without the race detector (less than 2 minutes)
	go test -short -p 1 -timeout 10m ./...

# The servers come from newer suites of Debian and are not installed: it needs apt-get, dpkg-deb and a mirror of Debian.
.PHONY: test-compat
test-compat: ## Run the tests of the store on Redis 8, Valkey 8 and Valkey 9, of newer suites of Debian (about 15 minutes; Debian or Ubuntu only)
	.ci/install-compat
	@for server in redis-8 valkey-8 valkey-9; do \
	  echo "on $$(.tmp/compat/$$server/redis-server --version)"; \
	  PATH="$(CURDIR)/.tmp/compat/$$server:$$PATH" go test -count=1 -p 1 -timeout 20m $$(go list ./store/... | grep -v redistest); \
	done

.PHONY: redis
redis: ## Install redis-server if it is not there
	.ci/install-redis

.PHONY: envoy
envoy: ## Fetch Envoy into .tmp/envoy, with pip, where it can be had
	.ci/install-envoy

.PHONY: fuzz
fuzz: redis ## Fuzz each target for FUZZTIME
	@for dir in $$(go list -f '{{.Dir}}' ./...); do \
	  for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$$dir"/*_test.go 2>/dev/null); do \
	    echo "$$target in $${dir#$(CURDIR)/}"; go test "$$dir" -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME); \
	  done; \
	done

.PHONY: bench
bench: build redis ## Measure the server beside the floor, a bare gRPC handler, on a real redis-server; BENCH has flags
	mkdir -p .tmp
	./larder bench --html .tmp/bench.html $(BENCH)
	@echo "The latencies are drawn in .tmp/bench.html."

.PHONY: cover
cover: redis $(GRPCURL) ## Show how much of each package its tests and the others' reach
	mkdir -p .tmp
	$(TEST) -coverpkg=./client/...,./cmd/...,./service/...,./store/... -coverprofile=.tmp/cover.out ./...
	go tool cover -func=.tmp/cover.out | tail -1
	go tool cover -html=.tmp/cover.out -o .tmp/cover.html

.PHONY: docker
docker: ## Build the image larder:VERSION
	docker build --build-arg VERSION=$(VERSION) -t larder:$(VERSION) -t larder:dev .

.PHONY: clean
clean: ## Remove what make has built
	rm -rf .tmp larder

.PHONY: help
help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | sort | expand -t 20

$(BUF):
	GOBIN=$(BIN) go install github.com/bufbuild/buf/cmd/buf@$(BUF_VERSION)
	mv $(BIN)/buf $@

# The transcripts of the documents are run with it.
$(GRPCURL):
	GOBIN=$(BIN) go install github.com/fullstorydev/grpcurl/cmd/grpcurl@$(GRPCURL_VERSION)

$(GOLANGCI_LINT):
	GOBIN=$(BIN) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
	mv $(BIN)/golangci-lint $@

$(BIN)/protoc-gen-go: go.mod
	go build -o $@ google.golang.org/protobuf/cmd/protoc-gen-go && touch $@

$(BIN)/protoc-gen-go-grpc: go.mod
	go build -o $@ google.golang.org/grpc/cmd/protoc-gen-go-grpc && touch $@
