"""A queue of a million mails, all for a destination that is down: what it takes of memory, and what it costs the mails of others.

Two gateways of the same config, one with an empty queue, side by side and alternately.
"""

import time
from dataclasses import dataclass

import compare
import processes
from bench import log
from figures import Verdict, bullets, median, median_quotient, number, ratio, table
from servers import Postern
from work import PATIENCE, Cell, Failed, Load, Sink, measure

TITLE = "A long queue"
SECONDS = 560

MAILS, MAILS_QUICK = 1_000_000, 50_000
#: Octets of each that waits; those of the cell are of the usual size.
SIZE = 1024
SESSIONS = 100
#: Seconds: at most, to fill it; until all have been tried once; what the rounds after that need.
FILLING, SETTLING, ROUNDS = 420, 60, 80
#: The recipient, and its domain, of what waits.
DOMAIN = "example.net"
TO = ["--to", f"user@{DOMAIN}"]
CELL = Cell(4 << 10, 20)
EMPTY, FULL = "Postern", "Postern-backlog"
#: MiB, and our rate as a multiple of that with an empty queue.
MEMORY = 1500
TARGET = 0.8


@dataclass
class Filled:
    mails: int
    #: As many as there should be; fewer were taken in the time that there is.
    wanted: int
    seconds: float
    empty_mib: float
    full_mib: float
    #: Until nothing was tried any more.
    settled_seconds: float


def runs(bench, rows):
    mails = MAILS_QUICK if bench.plan.quick else MAILS
    other = Sink()
    more = settings(mails, other.port)
    empty, full = (Postern(bench.scratch, bench.program, name, more) for name in (EMPTY, FULL))
    with compare.running([empty, full], bench.sink):
        let_it_be_known(bench, full, other)
        rows.append(fill(bench, full, mails))
        mails = {gateway: compare.calibrated(CELL, gateway, bench) for gateway in (empty, full)}
        for round_number in range(bench.plan.rounds):
            if bench.plan.is_over():
                break
            for gateway in compare.turn([empty, full], round_number):
                compare.keep(measure(CELL, gateway, bench.sink, mails[gateway], round_number + 1), rows)


def settings(mails, port):
    """A second tenant with a destination of its own; what waits for it waits until the end."""
    return {
        "queue": [f"max_messages = {2 * mails + 1_000_000}", 'retry = ["12h"]', 'delay_warning = "0s"'],
        "": [
            "[[tenant]]",
            'name = "down"',
            f'domains = ["{DOMAIN}"]',
            f'destination = {{ host = "127.0.0.1", port = {port}, tls = "never" }}',
        ],
    }


def let_it_be_known(bench, gateway, destination):
    """One mail is delivered before the destination goes down: the default chain takes none for a mailbox of which nobody knows
    whether it exists."""
    destination.start()
    try:
        seen = Load(bench.load, gateway.port, 1, SIZE, 1, more=TO).stop()
        if seen["taken"] != 1 or not destination.wait_for(1, SETTLING):
            raise Failed(f"the first mail did not arrive: {seen['trouble']}")
    finally:
        destination.stop()


def fill(bench, gateway, mails):
    empty = gateway.memory_mib()[0]
    seconds = min(FILLING, bench.plan.left() - ROUNDS)
    log(f"filling the queue with {mails} mails")
    with Load(bench.load, gateway.port, SESSIONS, SIZE, mails, more=[*TO, "--seconds", f"{seconds:.0f}"]) as load:
        seen = load.stop(FILLING + PATIENCE)
    if seen["refused"] or seen["broken"] or not seen["taken"]:
        raise Failed(f"{seen['taken']} of {mails} mails were taken: {seen['trouble']}")
    begun = time.monotonic()
    settle(gateway)
    full, settled = gateway.memory_mib()[0], time.monotonic() - begun
    filled = Filled(seen["taken"], mails, seen["seconds"], empty, full, settled)
    log(f"{filled.mails} at {filled.mails / filled.seconds:.0f}/s, {full:.0f} MiB; settled after {settled:.0f} s")
    return filled


def settle(gateway):
    """Until it does next to nothing: the first attempts are over."""
    deadline = time.monotonic() + SETTLING
    while time.monotonic() < deadline:
        before = processes.cpu_seconds(*gateway.roots())
        time.sleep(1)
        if processes.cpu_seconds(*gateway.roots()) - before < 0.05:
            return
    log(f"still at work after {SETTLING} s")


def accepted(row):
    """Mails a second until the source had its last reply."""
    return row.mails / row.accepted_seconds


def split(rows):
    """What was filled; rows with an empty queue, and with a full one."""
    filled = next((row for row in rows if isinstance(row, Filled)), None)
    rates = [row for row in rows if not isinstance(row, Filled)]
    return filled, *([row for row in rates if row.server == name] for name in (EMPTY, FULL))


def text(rows):
    filled, empty, full = split(rows)
    if not filled:
        return "The queue could not be filled."
    facts = [
        f"{filled.mails} of {filled.wanted} mails of {SIZE} octets were taken in {filled.seconds:.0f} s from {SESSIONS} sessions",
        f"nothing was tried any more {filled.settled_seconds:.0f} s later",
        f"memory (PSS): {filled.empty_mib:.0f} MiB with an empty queue, {filled.full_mib:.0f} MiB with them: "
        f"{(filled.full_mib - filled.empty_mib) * (1 << 20) / filled.mails:.0f} octets for each mail",
    ]
    lines = []
    for label, value in (("accepted /s", accepted), ("delivered /s", compare.rate), ("CPU, ms", compare.cpu)):
        lines.append([label, *(number(median(some, value)) for some in (empty, full)), *ratio(full, empty, value)])
    return f"{bullets(facts)}\n\n{CELL.name}:\n\n{table(['', 'empty queue', 'long queue', 'ratio', '(rounds)'], lines)}"


def verdicts(rows):
    filled, empty, full = split(rows)
    work = f"queue of {filled.mails if filled else MAILS} mails"
    # Of a shorter queue it would say nothing.
    memory = filled.full_mib if filled and filled.mails >= MAILS else None
    found = [Verdict(work, "", "PSS", memory, most=MEMORY, unit=" MiB")]
    for figure, value in (("rate of accepting", accepted), ("rate of delivering", compare.rate)):
        found.append(Verdict(work, "an empty queue", figure, median_quotient(full, empty, value), least=TARGET))
    return found
