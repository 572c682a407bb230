"""`make bench`: Postern beside its peers and beside itself. ../README.md says what and how."""

import argparse
import datetime
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import backlog
import chain
import compare
import growth
import install
import machine
import memory
import peers
import replies
import report
import servers
import slow_sync
import start
import swap
from bench import Bench, Plan, log
from work import Failed, Sink

#: In this order; the comparison first, for its rates say how much the others offer.
PARTS = {
    "compare": compare,
    "replies": replies,
    "slow-sync": slow_sync,
    "chain": chain,
    "start": start,
    "memory": memory,
    "growth": growth,
    "swap": swap,
    "queue": backlog,
}
#: What a word on the command line means, where it is not a part by itself.
WORDS = {"all": list(PARTS), "compare": ["compare", "replies"], "peers": ["compare"]}
SERVERS = {"postfix": servers.Postfix, "haraka": peers.Haraka, "postfix-milter": peers.Milter}
POSTERN = "postern"


def main():
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    # Where Debian has Postfix's programs, also for those whose PATH is a user's.
    os.environ["PATH"] += ":/usr/sbin"
    try:
        return run(options)
    except (servers.NotReady, machine.NotADisk) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1


def arguments():
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("part", choices=[*WORDS, *(name for name in PARTS if name not in ("compare", "replies"))])
    parser.add_argument("--postern", required=True, help="the program, built for release")
    parser.add_argument("--load", required=True, help="the timing client, built for release")
    parser.add_argument("--rounds", type=int, help="of each cell (5; 2 with --quick)")
    parser.add_argument("--seconds", type=float, help="of one run (4; 1.5 with --quick)")
    parser.add_argument("--limit", type=float, help="seconds for everything (1750; 420 with --quick)")
    parser.add_argument("--swaps", type=int, help="in all runs of plugin swaps (100; 20 with --quick)")
    parser.add_argument("--quick", action="store_true", help="a rough look in a few minutes")
    every = ",".join((POSTERN, *SERVERS))
    parser.add_argument("--servers", default=every, help="a comma between them")
    parser.add_argument("--scratch", default="/var/tmp", help="a directory on a real disk")
    parser.add_argument("--results", type=Path, help="benches/RESULTS.md; of one part target/bench/PART.md")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.seconds = options.seconds or (1.5 if options.quick else 4.0)
    options.limit = options.limit or (420 if options.quick else 1750)
    options.swaps = options.swaps or (20 if options.quick else 100)
    whole = servers.BENCHES / "RESULTS.md"
    options.results = options.results or (whole if options.part == "all" else install.PLACE / f"{options.part}.md")
    options.servers = options.servers.lower().split(",")
    if unknown := set(options.servers) - {POSTERN, *SERVERS}:
        parser.error(f"no such server: {', '.join(unknown)}; there are {every}")
    return options


def run(options):
    install.postfix()
    scratch = Path(tempfile.mkdtemp(prefix="postern-bench-", dir=options.scratch))
    # Postfix's own user must be able to pass.
    scratch.chmod(0o755)
    sink = Sink()
    try:
        return measured(options, scratch, sink)
    finally:
        sink.stop()
        shutil.rmtree(scratch, ignore_errors=True)


def measured(options, scratch, sink):
    begun = time.monotonic()
    names = WORDS.get(options.part, [options.part])
    measured_servers, left_out = compared(options, scratch) if "compare" in names else ([], [])
    settings = facts(options, scratch, measured_servers)
    plan = Plan(options.rounds, options.seconds, options.limit, options.quick)
    bench = Bench(scratch, options.postern, options.load, sink, plan, options.swaps, measured_servers)
    bench.peers_only = options.part == "peers"
    sink.start()
    failures = []
    for name in names:
        failures += measure_part(bench, name)
        if plan.cut:
            left_out.append(f"{name}: the time was up before all was measured")
    verdicts = [verdict for name in names for verdict in PARTS[name].verdicts(bench.found[name])]
    if options.part != "all":
        verdicts = [verdict for verdict in verdicts if verdict.value is not None]
    remarks = left_out + failures + [str(verdict) for verdict in verdicts if verdict.met is False]
    settings.append(("Time", f"{time.monotonic() - begun:.0f} s"))
    report.write(options.results, settings, PARTS, bench.found, verdicts, remarks)
    for remark in remarks:
        log(remark)
    log(f"{options.results} is written")
    return 1 if failures else 0


def measure_part(bench, name):
    """What went wrong. What was measured by then is kept, and the other parts are measured nevertheless."""
    rows = bench.found[name] = []
    bench.plan.begin(PARTS[name].SECONDS)
    try:
        PARTS[name].runs(bench, rows)
    except (Failed, servers.NotReady) as error:
        return [f"{name} ended early: {error}"]
    return swap.failures(rows) if name == "swap" else []


def compared(options, scratch):
    """The servers of the comparison; and why some are not among them. Without Postfix there is none, the others may be missing."""
    found, left_out = [], []
    if POSTERN in options.servers:
        found.append(servers.Postern(scratch, options.postern))
    for name in (name for name in SERVERS if name in options.servers):
        try:
            found.append(SERVERS[name](scratch))
        except servers.NotReady as error:
            if SERVERS[name].cells is None:
                raise
            left_out.append(f"{name} is left out: {error}")
    return found, left_out


def facts(options, scratch, measured_servers):
    kind, device = machine.filesystem(scratch)
    median, worst = machine.sync_latency(scratch)
    now = datetime.datetime.now(datetime.UTC)
    own = [] if measured_servers else [("Postern", machine.output_of(options.postern, "--version"))]
    return [
        ("Date", f"{now:%Y-%m-%d %H:%M} UTC, commit {commit()}"),
        *machine.description(),
        ("Disk", f"{kind} on {device}; 4 KiB and fdatasync take {median:.0f} µs (median), {worst:.0f} µs (p99)"),
        *own,
        *((server.name, f"{server.version()}; {server.durability}") for server in measured_servers),
        ("Chain", "the default one, limits per client lifted; no TLS, no DNS, one recipient"),
        ("Rounds", f"{options.rounds} of {options.seconds:g} s each; of the other parts fewer"),
    ]


def commit():
    done = machine.output_of("git", "-C", str(servers.BENCHES), "describe", "--always", "--dirty", "--exclude=*")
    return done or "unknown"


if __name__ == "__main__":
    sys.exit(main())
