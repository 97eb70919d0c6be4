# Tidegate. `make` prints the targets; nothing but Go, git and make is needed.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
MAKEFLAGS   += --no-builtin-rules

GO        ?= go
# Taken from git and not from the clock: one commit builds to the same bytes everywhere.
VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo 0.0.0-unknown)
LDFLAGS   := -s -w -X github.com/tidegate/tidegate/internal/cli.version=$(VERSION)
GOBUILD   := CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)'
TOOLBIN   := $(CURDIR)/.cache/bin
# For one package under -race on two slow cores.
TESTTIME  ?= 20m
# Packages tested at a time: one more than there are processors, because many wait for disks and clocks.
PACKAGES  ?= $(shell echo $$(($$(nproc) + 1)))
FUZZTIME  ?= 10s
SEEDS     ?= 2000
FROM      ?= 1
OUTAGE    ?= 10m
WALSIZE   ?= 2048
ROUNDS    ?= 20
PG        ?= 18
PGBIN     ?=
# Of rto-postgres, whose rounds are long; ROUNDS counts for it where it was given.
RTOROUNDS := $(if $(filter file,$(origin ROUNDS)),1,$(ROUNDS))
RESTOREROUNDS := $(if $(filter file,$(origin ROUNDS)),5,$(ROUNDS))
DRILLROUNDS := $(if $(filter file,$(origin ROUNDS)),3,$(ROUNDS))
ACCOUNTS  ?= 1000000
PGSIZE    ?= 5G
BACKLOG   ?= 256MiB
RATE      ?= 50MiB
PROFILE   ?=
SEED      ?= 1
FIRST     ?= 1

.PHONY: help
help: ## print the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build the product: bin/tidegate, bin/tidegate-agent and bin/ledger
	@echo "build: $(VERSION) into bin/ (the first build downloads the modules of go.mod)"
	mkdir -p bin
	for cmd in tidegate tidegate-agent; do $(GOBUILD) -o bin/$$cmd ./cmd/$$cmd; done
	$(GOBUILD) -o bin/ledger ./examples/ledger
	ls -l bin

.PHONY: test
# vet with -race, so that what it has compiled is what the tests are linked with.
# -count=1: tests that build and run the real binaries depend on more than go can see.
test: ## vet and every test under the race detector: what CI runs
	tools/needs
	$(GO) vet -race ./...
	$(GO) test -race -count=1 -p $(PACKAGES) -timeout $(TESTTIME) ./...

.PHONY: check
check: tools ## gofumpt, vet, golangci-lint, buf lint and breaking, tidy, tests of the house rules
	@echo "check: gofumpt"
	bad="$$(git ls-files -co --exclude-standard '*.go' | grep -v '^api/.*\.\(pb\|connect\)\.go$$' | xargs -r $(TOOLBIN)/gofumpt -l)"
	if [ -n "$$bad" ]; then echo "not formatted by gofumpt:"; echo "$$bad"; exit 1; fi
	echo "check: vet"
	$(GO) vet ./...
	$(GO) vet -tags drills ./internal/lab
	echo "check: golangci-lint"
	$(TOOLBIN)/golangci-lint run ./...
	echo "check: buf"
	tools/buf-check "$(TOOLBIN)/buf"
	echo "check: go mod tidy"
	$(GO) mod tidy -diff
	$(GO) -C tools mod tidy -diff
	echo "check: house rules"
	$(GO) test ./internal/tidy
	echo "check: all good"

.PHONY: sim
sim: ## the simulator over SEEDS seeds from FROM (default 2000 from 1), printing how to replay a failure
	$(GO) test ./internal/sim -run TestSeeds -count=1 -timeout 0 -v -seeds $(SEEDS) -from $(FROM)
	echo "sim: the same with each rule of the protocol broken, which must be found"
	$(GO) test ./internal/sim -tags mutate -run TestBrokenRulesAreFound -count=1 -timeout 0 -v -search

.PHONY: model
model: ## millions of states of the fence protocol, then every rule left out with the shortest way to harm
	$(GO) test ./gating/fence/model -run TestFull -count=1 -timeout 0 -v -full
	echo "model: the real cores against it, and with each rule broken, which must be noticed"
	$(GO) test ./gating/fence/model -tags mutate -run 'TestCoresFollowTheModel|TestReplayNoticesBrokenCores' -count=1

.PHONY: demo
demo: build ## lose a primary site twice, with real processes, and count what is left
	@echo "demo: real processes in /tmp, about two minutes"
	$(GOBUILD) -o bin/demo ./examples/demo
	bin/demo --bin bin

.PHONY: soak
soak: build ## five minutes of kill -9 under load, in sync and in bounded mode, then OUTAGE (10m) without a registry
	@echo "soak: real processes in /tmp, about five minutes and $(OUTAGE)"
	$(GO) run ./examples/soak --bin bin --outage $(OUTAGE)

.PHONY: demo-postgres
demo-postgres: build ## lose a primary site with a PostgreSQL server twice, and count which commits are left
	tools/needs postgresql
	@echo "demo-postgres: real processes in /tmp, about two minutes"
	$(GOBUILD) -o bin/demo ./examples/demo
	bin/demo --postgres --bin bin

.PHONY: test-restore
test-restore: ## restores from an archive, to POINTS random positions
	TIDEGATE_RESTORE_POINTS=$${POINTS:-500} go test -count=1 -v -run TestRestoreFromArchive ./stores/postgres/restore ./stores/journal/restore

.PHONY: test-postgres
test-postgres: ## what talks to PostgreSQL, against release PG (17 or 18; fetched once by npm) or the one in PGBIN
	tools/needs
	bin="$(PGBIN)"
	[ -n "$$bin" ] || bin=$$(tools/postgresql "$(PG)")
	echo "test-postgres: real servers of $$bin, some minutes on a quiet machine"
	tools/test-postgresql "$$bin"

.PHONY: test-drills
test-drills: ## drills on real processes that CI has no time for: the other scenarios of L3, a whole site with two services
	tools/needs
	@echo "test-drills: real processes in /tmp, two minutes; needs root"
	$(GO) test -race -tags drills ./internal/lab -run 'TestDrills' -count=1 -timeout 15m -v | grep -v '^ *{'

.PHONY: test-pgbackrest
test-pgbackrest: ## a node seeded from a real pgBackRest backup, and how much of the base crosses then
	tools/needs postgresql pgbackrest
	$(GO) test -tags pgbackrest ./internal/lab -run 'TestPgBackRest' -count=1 -timeout 10m -v | grep -v '^{'

.PHONY: test-s3
test-s3: ## the drivers of buckets, and sessions that cross by one, against real servers, MinIO and versitygw, which are built first (once, some minutes)
	tools/s3/build "$(TOOLBIN)"
	$(GO) test -race -tags s3 -count=1 -timeout 20m ./archive/bucket/s3 ./archive/bucket/minio ./shipper/drop ./agent -run TestServers -args -s3-servers "$(TOOLBIN)"

.PHONY: soak-postgres
soak-postgres: ## kill -9 of a whole site with a PostgreSQL server, ROUNDS times (default 20) in sync and in bounded mode
	tools/needs postgresql
	@echo "soak-postgres: real processes in /tmp, about half a minute a round; a round that fails names its seed (SEED=1 FIRST=1)"
	$(GO) test ./internal/lab -run 'TestPostgresRounds$$' -count=1 -timeout 0 -v -pg-rounds $(ROUNDS) -pg-seed $(SEED) -pg-from $(FIRST) | grep -v '^{'

.PHONY: faults
faults: ## one fault after the other on real processes: what clients lost, what was exposed, how long they waited
	tools/needs
	$(GO) test ./internal/lab -run 'TestTable$$' -count=1 -timeout 0 -v | grep -v '^{'

.PHONY: bench
bench: build ## B1 round trip, B2 throughput, B3 replay, B4 sync at a distance, each beside a limit
	@echo "bench: real processes on this disk, some minutes; a quiet machine gives steadier ratios"
	$(GOBUILD) -o bin/bench ./bench
	bin/bench --bin bin

.PHONY: bench-snapshot
bench-snapshot: build ## B5: what the primary's clients notice of a snapshot at the standby, in turns with none, and recovery from it
	@echo "bench-snapshot: real processes on this disk, some minutes; a quiet machine gives steadier ratios"
	$(GOBUILD) -o bin/bench ./bench
	bin/bench --bin bin --only b5

.PHONY: bench-drill
bench-drill: build ## B6, B7: drills of a ledger of ACCOUNTS (1000000) and of a PostgreSQL server of PGSIZE (5G) with BACKLOG (256MiB): phases, and live exposure in turns with none
	tools/needs postgresql
	@echo "bench-drill: real processes in /tmp, half an hour; ROUNDS=1 ACCOUNTS=20000 PGSIZE=200M is a look at it in some minutes"
	$(GOBUILD) -o bin/bench ./bench
	bin/bench --bin bin --only b6,b7 --rounds $(DRILLROUNDS) --accounts $(ACCOUNTS) --pgsize $(PGSIZE) --backlog $(BACKLOG) --rate $(RATE)

.PHONY: bench-restore
bench-restore: build ## bases and restores of SIZE (2G) beside pgBackRest and the disk, in ROUNDS (5) turns, then the recovery of a journal
	tools/needs postgresql pgbackrest
	@echo "bench-restore: real processes in /tmp, a quarter of an hour; SIZE=200M ROUNDS=1 is a look at it in some minutes"
	$(GOBUILD) -o bin/bench-restore ./bench/restore
	bin/bench-restore --bin bin --size $(or $(SIZE),2G) --rounds $(RESTOREROUNDS) $(if $(PROFILE),--profile $(PROFILE))
	$(GOBUILD) -o bin/bench ./bench
	bin/bench --bin bin --only b5 --rounds $(RESTOREROUNDS)

.PHONY: bench-postgres
bench-postgres: build ## PostgreSQL natively and through us, in turns: backlogs of WALSIZE MiB (2048), catch-up, latency
	tools/needs
	@echo "bench-postgres: real processes in /tmp, half an hour; the log takes some times WALSIZE of disk"
	$(GO) test -tags bench -count=1 -timeout 0 -v -run 'TestBench$$' ./bench/postgres -args -bin $(CURDIR)/bin -size $(WALSIZE)

.PHONY: rto-postgres
rto-postgres: build ## kill a primary site with a PostgreSQL server of SIZE (5G) under load, its standby up to date and LAG (1G) behind, RTO phase by phase
	tools/needs postgresql
	@echo "rto-postgres: real processes in /tmp, half an hour a round; ROUNDS=1 SIZE=200M LAG=100M is a look at it in some minutes"
	$(GOBUILD) -o bin/rto ./bench/rto
	bin/rto --bin bin --size $(or $(SIZE),5G) --lag $(or $(LAG),1G) --rounds $(RTOROUNDS)

.PHONY: generate
generate: tools ## protobuf and Connect code from api/proto; commit the result
	cd api && PATH="$(TOOLBIN):$$PATH" $(TOOLBIN)/buf generate

.PHONY: package
package: build tools ## deb and rpm of tidegate-agent and tidegate into dist/, reproducible
	packaging/build "$(TOOLBIN)/nfpm"

.PHONY: test-package
test-package: package ## install, run, remove and purge the deb in a Debian root of its own (needs root)
	packaging/test/run

.PHONY: docs
docs: ## the generated part of docs/metrics.md
	$(GO) test ./internal/tidy -run TestRepository -update

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME each (default 10s)
	tools/fuzz-all "$(FUZZTIME)"

.PHONY: tools
tools: ## build the pinned tools of tools/go.mod into .cache/bin, once
	@tools/build "$(TOOLBIN)"

.PHONY: clean
clean: ## remove everything that was built
	rm -rf bin dist .cache
