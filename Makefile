# Postern. `make run` and `make test` are all a newcomer needs.
# CARGO: another cargo. TEST_FLAGS: passed to `cargo test`, e.g. TEST_FLAGS=dialog.

CARGO ?= cargo
TEST_FLAGS ?=
RUN_FLAGS ?=
# What `make install` puts where: POSTERN is the binary; DESTDIR comes in front of every path, for packages.
POSTERN ?= target/release/postern
PREFIX ?= /usr/local
DESTDIR ?=
PEERS_FLAGS ?=
FAULTS_FLAGS ?=

# What `make bench` runs, and where cargo puts it.
BENCH_FLAGS ?=
PROFILE_FLAGS ?=
RELEASE = $(or $(CARGO_TARGET_DIR),target)/release
BENCH = python3 -B benches/harness --postern $(RELEASE)/postern --load $(RELEASE)/load
BENCH_OPTIONS = $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(QUICK),--quick) $(if $(SCRATCH),--scratch $(SCRATCH)) $(if $(SERVERS),--servers $(SERVERS)) $(BENCH_FLAGS)

.PHONY: bench bench-build bench-micro fuzz profile run test build plugins install uninstall lint test-crash test-faults test-js test-monitoring test-peers test-suites clean need-rust

run: plugins
	$(CARGO) run --quiet --package postern -- localserve $(RUN_FLAGS)

test: plugins
	$(CARGO) build --package postern
	$(CARGO) test --workspace --doc $(TEST_FLAGS)
	$(CARGO) test --workspace --lib --bins --tests $(TEST_FLAGS)

build: plugins
	$(CARGO) build --release --package postern
	@echo "The binary is target/release/postern"

# Binary, manual, completions, systemd unit; see runtime/docs/install.md.
install: $(POSTERN)
	@DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" POSTERN="$(POSTERN)" runtime/packaging/install install
	@echo "Installed in $(DESTDIR)$(PREFIX); what is next is in runtime/docs/install.md"

uninstall:
	@DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" runtime/packaging/install uninstall

# Only when it is missing: after a change, `make build` first.
target/release/postern:
	$(MAKE) build

# The default plugin set as WebAssembly, in target/plugins; installs or names what it needs for that.
plugins: need-rust
	@plugins/build

lint: plugins
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- --deny warnings
	sh -n plugins/build
	sh -n sdk/toolchain.sh
	sh -n sdk/templates/rust/build
	sh -n tests/js/run
	sh -n runtime/packaging/install
	sh -n tests/monitoring
	sh -n tests/peers/debian.sh
	sh -n tests/peers/install
	sh -n tests/suites/install
	sh -n tests/faults/machine/install
	sh -n tests/fuzz/run
	.ci/deny

# 200 kills instead of the 20 of `make test`.
test-crash: plugins
	$(CARGO) build --package postern
	POSTERN_CRASH_ROUNDS=200 $(CARGO) test --package postern-tests --test suite -- k8_killed_at_random --nocapture

# Faults that need root, minutes or Debian packages (tests/faults/machine): file systems of their own, power cuts, system calls that
# fail. FAULTS_FLAGS: passed to the tests, e.g. FAULTS_FLAGS=p1_.
test-faults: plugins
	@tests/faults/machine/install
	$(CARGO) build --package postern
	$(CARGO) test --package postern-tests --test machine -- --nocapture --test-threads 1 $(FAULTS_FLAGS)

# Every parser of what comes from outside, and whole sessions, by libFuzzer; FUZZ="command mime" SECONDS_EACH=60 for less.
fuzz: plugins
	tests/fuzz/run $(FUZZ)

# The day of a reseller who writes JavaScript: the template's own test, its build, and a rehearsal of what came out.
test-js: plugins
	$(CARGO) build --package postern
	tests/js/run

# Dashboard and alerts, with promtool from Debian's package prometheus, against a gateway that runs.
test-monitoring: plugins
	$(CARGO) build --package postern
	tests/monitoring

# Other mail servers and clients as peers (tests/peers); installs what it needs from Debian, PyPI and npm, hence root.
# PEERS_FLAGS: passed to pytest, e.g. PEERS_FLAGS='-k swaks'.
test-peers: plugins
	@tests/peers/install
	$(CARGO) build --package postern
	timeout --foreground --kill-after=30 480 target/peers/venv/bin/python -B -m pytest tests/peers $(PEERS_FLAGS)

# Postern beside Postfix, Haraka and a milter, and beside itself; written to benches/RESULTS.md. Needs root, for Postfix.
# ROUNDS=5, QUICK=1 (some minutes), SCRATCH=/var/tmp; everything else: BENCH_FLAGS=--help.
bench: bench-build
	$(BENCH) $(BENCH_OPTIONS) all

# One part of it, written to target/bench: compare, peers, slow-sync, chain, start, memory, growth, swap, queue.
bench-%: bench-build
	$(BENCH) $(BENCH_OPTIONS) $*

# What single steps cost.
bench-micro: plugins
	$(CARGO) bench --package postern-benches

# Where the gateway spends its time under the load of the bench, as a flame graph: target/profile/postern.svg. A build of its own:
# with frame pointers, by which perf finds who has called; so the first one takes as long as a release build.
PROFILE = $(or $(CARGO_TARGET_DIR),target)/profile
profile: plugins
	RUSTFLAGS="$(RUSTFLAGS) -C force-frame-pointers=yes" $(CARGO) build --release --package postern --target-dir $(PROFILE)/build
	python3 -B benches/profile --postern $(PROFILE)/build/release/postern --out $(PROFILE) --tools target/tools $(PROFILE_FLAGS)

bench-build: plugins
	$(CARGO) build --release --package postern --package postern-benches

clean:
	$(CARGO) clean

need-rust:
	@command -v $(CARGO) >/dev/null 2>&1 || { \
	  echo 'Rust 1.95 or newer is needed. See https://www.rust-lang.org/tools/install, then run make again.' >&2; exit 1; }

# SPF, DKIM and ARC against the suites that others wrote, and MIME files of others through the gateway (tests/suites); fetches
# them from PyPI and Debian. POSTERN_ARC_SUITE: where the
# ARC suite is, if not in ../shared/suites/arc.
test-suites: plugins
	@tests/suites/install
	$(CARGO) test --package postern --lib -- --ignored _suite
	$(CARGO) test --package postern-tests --test suite -- --ignored _suite
