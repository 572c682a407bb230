"""`make bench`: Postern beside Postfix, and plugin swaps under load. ../README.md says what and how."""

import argparse
import datetime
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import chain
import compare
import machine
import report
import servers
import swap
from work import Failed, Sink

SERVERS = {"postern", "postfix"}


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
    parser.add_argument("part", choices=["all", "compare", "chain", "swap"])
    parser.add_argument("--postern", required=True, help="the program, built for release")
    parser.add_argument("--load", required=True, help="the timing client, built for release")
    parser.add_argument("--rounds", type=int, help="of each cell (5; 2 with --quick)")
    parser.add_argument("--seconds", type=float, help="of one run (4; 1.5 with --quick)")
    parser.add_argument("--limit", type=float, help="seconds for everything (780; 175 with --quick)")
    parser.add_argument("--swaps", type=int, help="in all runs of plugin swaps (100; 20 with --quick)")
    parser.add_argument("--quick", action="store_true", help="a rough look in three minutes")
    parser.add_argument("--servers", default="postern,postfix", help="a comma between them")
    parser.add_argument("--scratch", default="/var/tmp", help="a directory on a real disk")
    parser.add_argument("--results", type=Path, default=servers.BENCHES / "RESULTS.md")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.seconds = options.seconds or (1.5 if options.quick else 4.0)
    options.limit = options.limit or (175 if options.quick else 780)
    options.swaps = options.swaps or (20 if options.quick else 100)
    options.servers = options.servers.lower().split(",")
    if unknown := set(options.servers) - SERVERS:
        parser.error(f"no such server: {', '.join(unknown)}; there are {', '.join(SERVERS)}")
    return options


def run(options):
    need_postfix()
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
    plan = compare.Plan(options.rounds, options.seconds, options.limit, options.load, options.quick)
    made = {"postern": lambda: servers.Postern(scratch, options.postern), "postfix": lambda: servers.Postfix(scratch)}
    peers = [made[name]() for name in options.servers] if options.part in ("all", "compare") else []
    settings = facts(options, scratch, peers)
    sink.start()
    rows, replies, chains, swaps, remarks = [], [], [], [], []
    try:
        if options.part in ("all", "chain"):
            plan.give(0.2)
            chain.runs(scratch, options.postern, sink, plan, log, chains)
        if peers:
            plan.give(0.7)
            compare.rates(peers, sink, plan, log, rows)
            plan.give(0.8)
            compare.replies(peers, sink, plan, log, rows, replies)
        if options.part in ("all", "swap"):
            plan.give(1.0)
            swap.runs(scratch, options.postern, sink, plan, log, options.swaps, swaps)
    except Failed as error:
        # What has been measured by then is worth having.
        remarks.append(f"ended early: {error}")
    failures = remarks + report.failures(swaps)
    remarks = failures + [f"slower than Postfix: {cell}" for cell in report.slower(rows)]
    remarks += report.dear(chains)
    remarks += ["the time was up before all rounds were run"] if plan.cut else []
    if peers and (missing := {cell.name for cell in compare.CELLS} - {row.cell for row in rows}):
        remarks.append(f"not measured: {'; '.join(sorted(missing))}")
    settings.append(("Time", f"{time.monotonic() - begun:.0f} s"))
    report.write(options.results, settings, rows, replies, chains, swaps, remarks)
    for remark in remarks:
        log(remark)
    log(f"{options.results} is written")
    return 1 if failures else 0


def facts(options, scratch, peers):
    kind, device = machine.filesystem(scratch)
    median, worst = machine.sync_latency(scratch)
    now = datetime.datetime.now(datetime.UTC)
    return [
        ("Date", f"{now:%Y-%m-%d %H:%M} UTC, commit {commit()}"),
        *machine.description(),
        ("Disk", f"{kind} on {device}; 4 KiB and fdatasync take {median:.0f} µs (median), {worst:.0f} µs (p99)"),
        *((server.name, f"{server.version()}; {server.durability}") for server in peers),
        ("Chain", "the default one, limits per client lifted; no TLS, no DNS, one recipient"),
        ("Rounds", f"{options.rounds} of {options.seconds:g} s each"),
    ]


def commit():
    done = machine.output_of("git", "-C", str(servers.BENCHES), "describe", "--always", "--dirty", "--exclude=*")
    return done or "unknown"


def need_postfix():
    """smtp-source and smtp-sink come with it, too."""
    if all(map(shutil.which, ("postfix", "postconf", "smtp-source", "smtp-sink"))):
        return
    advice = "Debian's package postfix is needed: apt-get install --no-install-recommends postfix"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise servers.NotReady(advice)
    log("installing postfix")
    # Without a config of its own Debian doesn't start it: nothing listens on port 25 because somebody measured.
    subprocess.run(
        ["debconf-set-selections"],
        input="postfix postfix/main_mailer_type select No configuration\n",
        text=True,
        check=False,
    )
    for command in (["update"], ["install", "-y", "--no-install-recommends", "postfix"]):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        if subprocess.run(["apt-get", *command], env=environment, stdout=sys.stderr, check=False).returncode:
            raise servers.NotReady(advice)


def log(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
