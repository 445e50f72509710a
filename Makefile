# The two commands of the README: `make run` and `make test`. Everything else
# is for those who change the code. Tools run at pinned versions through
# `go run`, so that go.mod holds only what the binary is built from.

GO          ?= go
GOTESTSUM    = $(GO) run gotest.tools/gotestsum@v1.13.0
TEMPL        = $(GO) run github.com/a-h/templ/cmd/templ@v0.3.977
STATICCHECK  = $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2
BIN          = bin/permafrost
# What tests may take; CI stays well below its 30 minutes.
TEST_TIMEOUT ?= 20m

export CGO_ENABLED = 1

.PHONY: run test build setup setup-test lint generate bench prove-loop clean

# The server watches other processes' page faults, which takes root.
SUDO := $(shell [ "$$(id -u)" -eq 0 ] || command -v sudo)

run: setup build
	$(SUDO) $(BIN) serve --demo

build:
	@mkdir -p bin
	$(GO) build -o $(BIN) ./cmd/permafrost

setup:
	@.ci/setup run

setup-test:
	@.ci/setup test

# -p 1: the packages share two cores and measure nothing, but real processes
# with real time limits run in several of them.
test: setup-test build
	$(GO) vet ./...
	$(GOTESTSUM) --format pkgname --packages ./... -- -p 1 -shuffle=on -timeout $(TEST_TIMEOUT)

# prove must pass every time, with 1, 4 and 16 threads and two client
# processes, and fail with each planted fault (docs/TESTING.md).
PROVE_ROUNDS ?= 200
prove-loop: build
	PERMAFROST_PROVE_ROUNDS=$(PROVE_ROUNDS) $(GO) test ./cmd/permafrost -run 'TestProve' -count 1 -v -timeout 60m

lint: setup
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -d $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./...
	$(STATICCHECK) ./...
	$(TEMPL) generate
	git diff --exit-code -- '*_templ.go'

generate:
	$(TEMPL) generate

bench: setup build
	.ci/bench

clean:
	rm -rf bin var
