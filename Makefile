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

.PHONY: run test build setup setup-test lint generate bench prove-loop crash crash-full dax-guest setup-guest kill-loop fuzz clean mount-full install

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
	$(MAKE) --no-print-directory crash CRASH_TIME=1m CRASH_ARGS=-crash.seed=1
	$(GOTESTSUM) --format pkgname --packages ./... -- -p 1 -shuffle=on -timeout $(TEST_TIMEOUT)

# prove must pass every time, with 1, 4 and 16 threads and two client
# processes, and fail with each planted fault (docs/TESTING.md).
PROVE_ROUNDS ?= 200
prove-loop: build
	PERMAFROST_PROVE_ROUNDS=$(PROVE_ROUNDS) $(GO) test ./cmd/permafrost -run 'TestProve' -count 1 -v -timeout 60m

# The search for crash inconsistencies, and the planted faults that it must
# find (docs/RELIABILITY.md). Each campaign has a seed of its own, but that of
# make test, which is to say the same of the same code: CRASH_ARGS=-crash.seed=N.
CRASH_TIME ?= 5m
CRASH_RUN   = mkdir -p var/crash && $(GO) test -tags plant -c -o var/crash/crash.test ./core/crash && var/crash/crash.test -test.v -crash.keep var/crash $(CRASH_ARGS)
crash: setup
	$(CRASH_RUN) -crash.time $(CRASH_TIME) -test.timeout 30m

# Every pair of changes, in both domains: half an hour and more.
crash-full: setup
	$(CRASH_RUN) -crash.full -test.timeout 24h

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

# The binary on real DAX mounts, ext4 and xfs, in an emulated machine with
# NVDIMMs; GUEST_* are explained in .ci/dax-guest.
dax-guest: setup-guest
	@.ci/dax-guest

setup-guest:
	@.ci/setup guest

# kill -9 of the server under load, N times (docs/TESTING.md). Progress and the
# images of failures are in var/kill-loop; a loop that was stopped goes on.
N ?= 1000
kill-loop: build
	PERMAFROST_KILL_CYCLES=$(N) PERMAFROST_KILL_DIR=$(CURDIR)/var/kill-loop PERMAFROST_KILL_SERVER=$(CURDIR)/$(BIN) \
		$(GO) test ./cmd/permafrost -run 'TestKillLoop$$' -count 1 -v -timeout 24h

# Every fuzz target for FUZZTIME each, in turn: more than two hours by default.
# What it finds lies in the package's testdata/fuzz afterwards.
FUZZTIME ?= 10m
fuzz:
	FUZZTIME=$(FUZZTIME) .ci/fuzz

clean:
	rm -rf bin var

# All of what the mount must show, at full length (docs/TESTING.md): an hour or so.
MOUNT_OPS     ?= 1000000
MOUNT_FREEZES ?= 100
mount-full: setup-test build
	@PERMAFROST_MOUNT_OPS=$(MOUNT_OPS) PERMAFROST_MOUNT_FREEZES=$(MOUNT_FREEZES) .ci/mount-full

# mount(8) looks for mount.permafrost in /sbin, whatever PREFIX is. DESTDIR is for
# packages; UNITDIR= leaves the units out.
PREFIX  ?= /usr/local
BINDIR  ?= $(PREFIX)/bin
SBINDIR ?= /sbin
UNITDIR ?= $(PREFIX)/lib/systemd/system
install: build
	install -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(SBINDIR)
	install -m 755 $(BIN) $(DESTDIR)$(BINDIR)/permafrost
	ln -sf $(BINDIR)/permafrost $(DESTDIR)$(SBINDIR)/mount.permafrost
	@[ -z "$(UNITDIR)" ] || { set -e; install -d $(DESTDIR)$(UNITDIR); \
		sed 's|@BINDIR@|$(BINDIR)|' init/permafrost.service >$(DESTDIR)$(UNITDIR)/permafrost.service; \
		install -m 644 init/srv-permafrost.mount $(DESTDIR)$(UNITDIR)/; echo "units: $(UNITDIR)"; }
