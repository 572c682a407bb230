"""Plugin swap under load: does a client notice?

Steady load from the timing client, half of what the gateway can take; every other run one plugin of the chain is
replaced again and again, each time by a version that was never seen before, so its compilation is part of what is
measured. Replies with and without swaps are compared, and every mail that was taken must reach the sink once.
"""

import math
import statistics
import time
from dataclasses import dataclass

import compare
from bench import log
from figures import Verdict, bullets, median, median_quotient, number, table, times
from replies import COMMANDS, percentile
from servers import BENCHES, NotReady, Postern
from work import Load

TITLE = "Plugin swap under load"
SECONDS = 300

PLUGIN = "access"
MODULE = BENCHES.parent / "target/plugins" / f"{PLUGIN}.wasm"
SESSIONS = 20
#: How long after everything was sent the last mails may take to arrive.
ARRIVAL = 30
#: Seconds from one swap to the next, where one does not take longer than a third of that.
EACH = 1.0
#: Seconds of one run, however slow the compiler is; the swaps then follow each other without a rest.
LONGEST = 120


@dataclass
class Run:
    round: int
    swaps: int
    offered: float
    seen: dict
    #: Mails at the sink in this run.
    arrived: int
    #: Seconds that each swap took, as the one who asked for it saw it.
    swap_seconds: list


class SwapGateway(Postern):
    """The gateway of the comparison, in which one plugin is installed again and again over the built-in one."""

    name = "Postern-swap"

    def prepare(self, sink_port):
        if not MODULE.exists():
            raise NotReady(f"There is no {MODULE}. `make plugins` builds it.")
        return super().prepare(sink_port)

    def swap(self, number):
        """The whole swap, as an operator does it: returns when version `number` is in force."""
        file = self.directory / f"{PLUGIN}.wasm"
        # The same code with another digest.
        file.write_bytes(MODULE.read_bytes() + custom_section("bench-version", str(number).encode()))
        self.ask("plugin", "install", str(file), "--name", PLUGIN, "--scope", "platform")


def custom_section(name, content):
    """Bytes that mean nothing at the end of a WebAssembly module: id 0, length, name, content."""
    body = bytes([len(name)]) + name.encode() + content
    assert len(body) < 128, "one octet of LEB128"
    return bytes([0, len(body)]) + body


def runs(bench, rows):
    gateway = SwapGateway(bench.scratch, bench.program)
    with compare.running([gateway], bench.sink):
        offered = round(full_rate(gateway, bench) / 2)
        versions = iter(range(1, 1_000_000))
        swaps = math.ceil(bench.swaps / bench.plan.swap_rounds)
        seconds = min(LONGEST, swaps * interval(gateway, versions))
        for round_number in range(bench.plan.swap_rounds):
            if bench.plan.is_over():
                break
            for count in compare.turn([0, swaps], round_number):
                run = steady(gateway, bench, round_number + 1, offered, seconds, count, versions)
                rows.append(run)
                message = run.seen["times_us"]["message"]
                log(f"{count} swaps in {seconds:.0f} s at {offered}/s: p99 of the last reply {message['p99']} µs")


def full_rate(gateway, bench):
    """Mails a second that are accepted from as many sessions without a pause."""
    target = bench.sink.mails
    for mails in (500, 3000):
        seen = Load(bench.load, gateway.port, SESSIONS, mails=mails).stop()
        target += seen["taken"]
        bench.sink.wait_for(target, ARRIVAL)
    return seen["taken"] / seen["seconds"]


def interval(gateway, numbers):
    """Seconds from one swap to the next: there is at least twice as much rest as work."""
    times = []
    for _ in range(5):
        since = time.monotonic()
        gateway.swap(next(numbers))
        times.append(time.monotonic() - since)
    return max(EACH, 3 * statistics.median(times))


def steady(gateway, bench, round_number, offered, seconds, swaps, versions):
    before = bench.sink.mails
    times_taken = []
    with Load(bench.load, gateway.port, SESSIONS, rate=offered) as load:
        begun = time.monotonic()
        for n in range(swaps):
            # Spread evenly over the run.
            time.sleep(max(0.0, begun + (n + 0.5) * seconds / swaps - time.monotonic()))
            since = time.monotonic()
            gateway.swap(next(versions))
            times_taken.append(time.monotonic() - since)
        time.sleep(max(0.0, begun + seconds - time.monotonic()))
        seen = load.stop()
    bench.sink.wait_for(before + seen["taken"], ARRIVAL)
    # One that comes twice comes soon.
    time.sleep(0.5)
    return Run(round_number, swaps, offered, seen, bench.sink.mails - before, times_taken)


def split(rows):
    """Runs without swaps and with them."""
    return ([run for run in rows if bool(run.swaps) == swapped] for swapped in (False, True))


def text(rows):
    without, with_swaps = split(rows)
    if not with_swaps:
        return "No run was completed."
    head = ["reply to", "without: p50", "p99", "p99.9", "with swaps: p50", "p99", "p99.9", "p99"]
    lines = []
    for command, label in COMMANDS:
        three = [percentile(command, name) for name in ("p50", "p99", "p999")]
        values = [median(runs, value) for runs in (without, with_swaps) for value in three]
        lines.append([label, *map(number, values), times(median_quotient(with_swaps, without, three[1]))])
    each = sorted(second for run in with_swaps for second in run.swap_seconds)
    facts = [
        f"{with_swaps[0].swaps} swaps in a run of {with_swaps[0].seen['seconds']:.0f} s, {len(with_swaps)} such runs; "
        f"a swap took {statistics.median(each) * 1000:.0f} ms (median), {each[-1] * 1000:.0f} ms at most",
        f"{with_swaps[0].offered:.0f} mails a second from 20 sessions, half of what the gateway takes without a pause",
        "; ".join(f"{name}: {account(runs)}" for name, runs in (("without", without), ("with swaps", with_swaps))),
    ]
    return f"{bullets(facts)}\n\nMilliseconds.\n\n{table(head, lines)}"


def account(runs):
    taken, refused, broken, arrived = (
        sum(values)
        for values in zip(*((r.seen["taken"], r.seen["refused"], r.seen["broken"], r.arrived) for r in runs))
    )
    return f"{taken} mails taken, {arrived} arrived, {refused} error replies, {broken} broken sessions"


def verdicts(rows):
    without, with_swaps = split(rows)
    grown = [median_quotient(with_swaps, without, percentile(command, "p99")) for command, _ in COMMANDS]
    known = [value for value in grown if value is not None]
    failed = sum(failed_mails(run) for run in with_swaps) if with_swaps else None
    return [
        Verdict("plugin swap under load", "", "failed mails", failed, most=0),
        Verdict("plugin swap under load", "no swap", "p99 of the slowest kind of reply", max(known, default=None), most=2),
    ]


def failed_mails(run):
    return run.seen["refused"] + run.seen["broken"] + abs(run.seen["taken"] - run.arrived)


def failures(rows):
    """What a swap must never do."""
    found = []
    for run in rows:
        seen = run.seen
        where = f"swap round {run.round} with {run.swaps} swaps"
        if seen["refused"] or seen["broken"]:
            counts = f"{seen['refused']} error replies, {seen['broken']} broken sessions"
            found.append(f"{where}: {counts}: {seen['trouble']}")
        if run.arrived != seen["taken"]:
            found.append(f"{where}: {seen['taken']} mails were taken and {run.arrived} arrived")
    return found
