"""The same work through each server, alternately; and how long their replies take at the same load."""

import time
from dataclasses import dataclass

from work import Cell, Load, measure

CELLS = [
    Cell(4 << 10, 1),
    Cell(4 << 10, 20),
    Cell(4 << 10, 100),
    Cell(4 << 10, 20, reconnect=True),
    Cell(64 << 10, 20),
    Cell(1 << 20, 20),
]

#: Those in which replies are timed.
TIMED = CELLS[:3]

#: Rounds of the source straight to the sink, which only shows how far the harness is from being the limit.
ROUNDS_ALONE = 2


@dataclass
class Replies:
    """What the timing client saw in one run."""

    cell: str
    server: str
    round: int
    #: Mails a second that were offered.
    offered: float
    seen: dict


def rates(servers, sink, plan, log, rows):
    """Appends the rows of all cells. The servers run side by side and idle while it is not their turn."""
    for cell in CELLS:
        if plan.is_over(log):
            break
        with running(servers, sink):
            mails = {server: calibrated(cell, server, sink, plan.seconds) for server in [*servers, None]}
            for number in range(plan.rounds):
                if plan.is_over(log):
                    break
                for server in turn(servers, number) + ([None] if number < ROUNDS_ALONE else []):
                    row = measure(cell, server, sink, mails[server], number + 1)
                    rows.append(row)
                    log(f"{row.cell}, round {row.round}: {row.server} {row.rate:.0f}/s, {row.cpu_ms:.2f} ms")


def replies(servers, sink, plan, log, rows, found):
    """Every server is offered half of what the slowest of them has reached, so none is at its limit."""
    for cell in TIMED:
        reached = [row.rate for row in rows if row.cell == cell.name and row.server != "alone"]
        if not reached or plan.is_over(log):
            continue
        offered = round(min(reached) / 2)
        with running(servers, sink):
            for number in range(plan.reply_rounds):
                for server in turn(servers, number):
                    mails = round(offered * plan.seconds)
                    target = sink.mails + mails
                    seen = Load(plan.load, server.port, cell.sessions, cell.size, mails, offered).stop()
                    sink.wait_for(target, 30)
                    found.append(Replies(cell.name, server.name, number + 1, offered, seen))
                    message = seen["times_us"]["message"]
                    log(f"{cell.name} at {offered}/s: {server.name} p50 {message['p50']} µs, p99 {message['p99']} µs")


class running:
    """All servers started, and stopped however the block ends."""

    def __init__(self, servers, sink):
        self.servers, self.sink = servers, sink

    def __enter__(self):
        try:
            for server in self.servers:
                server.start(self.sink.port)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_):
        for server in self.servers:
            server.stop()


def turn(servers, number):
    """Who comes first changes from round to round."""
    return list(servers) if number % 2 == 0 else list(reversed(servers))


def calibrated(cell, server, sink, seconds):
    """How many mails keep this server busy for so long. Warms it up, too."""
    least = max(2 * cell.sessions, 30)
    mails = max(least, (800 << 10) // cell.size)
    for share in (0.3, 1.0):
        rate = measure(cell, server, sink, mails, 0).rate
        mails = max(least, round(rate * seconds * share))
    return mails


class Plan:
    """How much is measured, and until when."""

    def __init__(self, rounds, seconds, limit, load, quick):
        self.rounds = rounds
        #: Of the other parts.
        self.reply_rounds = min(rounds, 1 if quick else 3)
        #: Runs with and without swaps, alternately: what the machine does meanwhile hits both.
        self.swap_rounds = 1 if quick else 4
        #: Of one run.
        self.seconds = seconds
        self.load = load
        self.end = time.monotonic() + limit
        self.share = 1.0
        self.cut = False
        self.limit = limit

    def give(self, share):
        """The next part may go on until this share of the whole time is used."""
        self.share = share

    def is_over(self, log):
        left = self.end - (1 - self.share) * self.limit - time.monotonic()
        if left < 0 and not self.cut:
            self.cut = True
            log("the time is used up: what is left of this part is not measured")
        return left < 0
