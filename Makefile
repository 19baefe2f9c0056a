# stepfs: `make help` says what there is.

GO          ?= go
BIN         := bin/stepfs
# Tools are pinned here and run with `go run`: nothing is installed, and none of
# what they need gets into go.mod.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0

# Packages whose tests mount for real run one at a time: they are heavy on the
# disk, and one's leftovers must not be mistaken for another's.
REAL        := stepfs/fs stepfs/cmd/... stepfs/integration/...
UNIT         = $(filter-out $(shell $(GO) list $(REAL) 2>/dev/null),$(shell $(GO) list ./...))
TESTFLAGS   ?=
ROUNDS      ?= 50
SOAK_ROUNDS ?= 2000

# Where make install puts things, below DESTDIR. mount(8) looks for its helpers
# in /sbin alone.
PREFIX      ?= /usr/local
SBINDIR     ?= /sbin
UNITDIR     ?= $(PREFIX)/lib/systemd/system

VERSION     := $(shell git describe --always --dirty 2>/dev/null || echo unknown)

.DEFAULT_GOAL := help
.PHONY: help build install uninstall deps servers demo test unit real race lint fmt bench series soak clean leftovers sweep

help: ## say what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/stepfs
	@mkdir -p bin
	$(GO) build -trimpath -o $(BIN) ./cmd/stepfs

install: build ## install the command, the helpers of mount(8), the systemd unit (PREFIX, SBINDIR, UNITDIR, DESTDIR)
	install -D -m 755 $(BIN) $(DESTDIR)$(PREFIX)/bin/stepfs
	mkdir -p $(DESTDIR)$(SBINDIR) $(DESTDIR)$(UNITDIR)
	ln -sf $(PREFIX)/bin/stepfs $(DESTDIR)$(SBINDIR)/mount.stepfs
	ln -sf $(PREFIX)/bin/stepfs $(DESTDIR)$(SBINDIR)/mount.fuse.stepfs
	sed 's|/usr/local/bin|$(PREFIX)/bin|' docs/stepfs@.service >$(DESTDIR)$(UNITDIR)/stepfs@.service

uninstall: ## remove what make install installed
	rm -f $(DESTDIR)$(PREFIX)/bin/stepfs $(DESTDIR)$(SBINDIR)/mount.stepfs $(DESTDIR)$(SBINDIR)/mount.fuse.stepfs $(DESTDIR)$(UNITDIR)/stepfs@.service

deps: ## install what tests and demo need (apt-get; only what is missing)
	@tools/deps.sh

servers: ## install the S3 servers that tests start (go install, into ~/.cache/stepfs/servers)
	@tools/servers.sh

demo: ## train a small transformer on a mount, lose its checkpoints, get them back
	@tools/deps.sh demo
	@$(MAKE) --no-print-directory build
	@integration/demo/demo.sh

test: deps servers sweep unit real ## run every test: packages, then the binary on real mounts
	@tools/leftovers.sh

unit:
	$(GO) test -p 2 $(TESTFLAGS) $(UNIT)

# -count=1: a test that runs the built binary is not known to depend on it.
real:
	$(GO) test -count=1 -p 1 -timeout 20m $(TESTFLAGS) $(filter-out stepfs/integration/...,$(REAL))
	STEPFS_ROUNDS=$(ROUNDS) $(GO) test -count=1 -p 1 -v -timeout 40m $(TESTFLAGS) ./integration/...

race: deps servers sweep ## the same under the race detector, with fewer rounds of faults
	STEPFS_LIVES=40 STEPFS_SIM_POINTS=500 STEPFS_SIM_FAULTS=200 $(GO) test -race -p 2 -timeout 40m $(TESTFLAGS) $(UNIT)
	STEPFS_RACE=1 STEPFS_ROUNDS=10 STEPFS_POSIX_OPS=5000 $(GO) test -race -p 1 -timeout 60m $(TESTFLAGS) $(REAL)
	@tools/leftovers.sh

lint: ## gofmt, vet, staticcheck, the import arrows, govulncheck
	@out=$$(gofmt -l .); test -z "$$out" || { echo "gofmt -w these:"; echo "$$out"; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	$(GO) test -count=1 ./internal/lint
	@tools/vulncheck.sh $(GOVULNCHECK) ./...

fmt: ## gofmt everything
	gofmt -w .

bench: deps servers build ## the benchmarks: a table, and bench/out/bench.json
	@mkdir -p bench/out
	$(GO) run ./bench -bin $(BIN) -json bench/out/bench.json $(BENCHFLAGS)
	@test -n "$(BENCHFLAGS)" || $(MAKE) --no-print-directory series

series: deps build ## train checkpoint series, and what they take beside restic, borg, kopia: a table, and bench/out/series.json
	@test -d bench/out/series || bench/series/generate.py bench/out/series.new $(SERIESFLAGS)
	@test -d bench/out/series || mv bench/out/series.new bench/out/series
	@bench/series/kopia.sh bench/out || echo "series: no kopia" >&2
	$(GO) run ./bench/series/compare -bin $(BIN) -kopia bench/out/kopia -json bench/out/series.json bench/out/series
	$(GO) run ./bench/series/measure bench/out/series

soak: deps sweep ## for hours: kill -9, 2,000 saves, public suites, 1,000,000 calls against ext4, power cuts, faults, MinIO
	@tools/servers.sh minio
	STEPFS_PACKS=all STEPFS_ROUNDS=$(SOAK_ROUNDS) $(GO) test -count=1 -v -timeout 0 -run 'Kill|Repair' ./integration
	STEPFS_SAVES=2000 STEPFS_SAVE_ROOM=8 $(GO) test -count=1 -v -timeout 0 -run RotatingJob ./integration
	STEPFS_SUITES=long $(GO) test -count=1 -v -timeout 0 ./integration/suites
	STEPFS_POSIX_OPS=500000 $(GO) test -count=1 -v -timeout 0 -run Random ./integration/posix
	STEPFS_LIVES=2000 $(GO) test -count=1 -v -timeout 0 -run 'TestPowerCut$$' ./fs/stage
	STEPFS_SIM_POINTS=1000000 STEPFS_SIM_FAULTS=20000 STEPFS_FLIPS=10000 $(GO) test -count=1 -v -timeout 0 -run 'TestPowerCut$$|TestInjectedErrors$$|TestFlippedBits$$' ./internal/sim
	STEPFS_PRUNE_SEEDS=5000 $(GO) test -count=1 -v -timeout 0 -run TestMachine ./chunkstore/bucket/prune
	STEPFS_CUTS=5000 STEPFS_FLIPS=10000 STEPFS_STRIDE=1 STEPFS_STALL=30 $(GO) test -count=1 -p 1 -v -timeout 0 ./integration/faults
	STEPFS_MINIO=1 STEPFS_REMOTE_FAULTS=10000 $(GO) test -count=1 -v -timeout 0 ./integration/s3
	@tools/leftovers.sh

leftovers: ## fail when a mount, a daemon or a loop device was left behind
	@tools/leftovers.sh

sweep: ## remove what test runs that were killed have left behind
	@tools/sweep.sh

clean: ## remove what make made
	rm -rf bin bench/out integration/out demo
