"""How long replies take at the same load: half of what the slowest server has reached, so none is at its limit."""

from dataclasses import dataclass

from bench import log
from compare import CELLS, running, turn
from figures import median, number, quotient, table, times, unique
from work import Load

TITLE = "Replies at the same load"
SECONDS = 120

TIMED = CELLS[:3]
COMMANDS = [("MAIL", "MAIL"), ("RCPT", "RCPT"), ("DATA", "DATA"), ("message", "the message")]


@dataclass
class Replies:
    """What the timing client saw in one run."""

    cell: str
    server: str
    round: int
    #: Mails a second that were offered.
    offered: float
    seen: dict


def runs(bench, rows):
    servers = [server for server in bench.servers if server.cells is None]
    names = {server.name for server in servers}
    rates = bench.found.get("compare", [])
    for cell in TIMED:
        reached = [row.rate for row in rates if row.cell == cell.name and row.server in names]
        if not reached or bench.plan.is_over():
            continue
        offered = round(min(reached) / 2)
        with running(servers, bench.sink):
            for round_number in range(bench.plan.few_rounds):
                for server in turn(servers, round_number):
                    rows.append(timed(bench, server, cell, round_number + 1, offered))


def timed(bench, server, cell, round_number, offered):
    mails = round(offered * bench.plan.seconds)
    target = bench.sink.mails + mails
    seen = Load(bench.load, server.port, cell.sessions, cell.size, mails, offered).stop()
    bench.sink.wait_for(target, 30)
    message = seen["times_us"]["message"]
    log(f"{cell.name} at {offered}/s: {server.name} p50 {message['p50']} µs, p99 {message['p99']} µs")
    return Replies(cell.name, server.name, round_number, offered, seen)


def percentile(command, name):
    """Milliseconds."""
    return lambda run: run.seen["times_us"][command][name] / 1000


def text(rows):
    head = ["work", "offered /s", "reply to", "Postern p50", "p99", "Postfix p50", "p99", "p50", "p99"]
    lines = []
    for cell in unique(run.cell for run in rows):
        ours, theirs = (
            [run for run in rows if run.cell == cell and run.server == name] for name in ("Postern", "Postfix")
        )
        for command, label in COMMANDS:
            both = [percentile(command, name) for name in ("p50", "p99")]
            offered = number((ours or theirs)[0].offered)
            values = [median(runs, value) for runs in (ours, theirs) for value in both]
            quotients = [quotient(median(ours, value), median(theirs, value)) for value in both]
            lines.append([cell, offered, label, *map(number, values), *map(times, quotients)])
    return "Milliseconds; the last two columns are Postern's share of Postfix's.\n\n" + table(head, lines)


def verdicts(_):
    return []
