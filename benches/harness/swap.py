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
from servers import BENCHES, NotReady, Postern
from work import Load

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


def runs(scratch, program, sink, plan, log, swaps, found):
    gateway = SwapGateway(scratch, program)
    with compare.running([gateway], sink):
        offered = round(full_rate(gateway, sink, plan) / 2)
        numbers = iter(range(1, 1_000_000))
        swaps = math.ceil(swaps / plan.swap_rounds)
        seconds = min(LONGEST, swaps * interval(gateway, numbers))
        for number in range(plan.swap_rounds):
            if plan.is_over(log):
                break
            for count in compare.turn([0, swaps], number):
                run = steady(gateway, sink, plan, number + 1, offered, seconds, count, numbers)
                found.append(run)
                message = run.seen["times_us"]["message"]
                log(f"{count} swaps in {seconds:.0f} s at {offered}/s: p99 of the last reply {message['p99']} µs")


def full_rate(gateway, sink, plan):
    """Mails a second that are accepted from as many sessions without a pause."""
    target = sink.mails
    for mails in (500, 3000):
        seen = Load(plan.load, gateway.port, SESSIONS, mails=mails).stop()
        target += seen["taken"]
        sink.wait_for(target, ARRIVAL)
    return seen["taken"] / seen["seconds"]


def interval(gateway, numbers):
    """Seconds from one swap to the next: there is at least twice as much rest as work."""
    times = []
    for _ in range(5):
        since = time.monotonic()
        gateway.swap(next(numbers))
        times.append(time.monotonic() - since)
    return max(EACH, 3 * statistics.median(times))


def steady(gateway, sink, plan, number, offered, seconds, swaps, versions):
    before = sink.mails
    load = Load(plan.load, gateway.port, SESSIONS, rate=offered)
    begun = time.monotonic()
    times = []
    for n in range(swaps):
        # Spread evenly over the run.
        time.sleep(max(0.0, begun + (n + 0.5) * seconds / swaps - time.monotonic()))
        since = time.monotonic()
        gateway.swap(next(versions))
        times.append(time.monotonic() - since)
    time.sleep(max(0.0, begun + seconds - time.monotonic()))
    seen = load.stop()
    sink.wait_for(before + seen["taken"], ARRIVAL)
    # One that comes twice comes soon.
    time.sleep(0.5)
    return Run(number, swaps, offered, seen, sink.mails - before, times)
