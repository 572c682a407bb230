"""The same work through each server, alternately."""

import peers
from bench import log
from figures import Verdict, median, median_quotient, number, ratio, table, unique
from work import ALONE, Cell, measure

TITLE = "Rate and cost"
SECONDS = 620

BIG = Cell(1 << 20, 20)
CELLS = [
    Cell(4 << 10, 1),
    *peers.CELLS,
    Cell(4 << 10, 20, reconnect=True),
    Cell(64 << 10, 20),
    BIG,
]

#: Rounds of the source straight to the sink, which only shows how far the harness is from being the limit; where it nearly is, all.
ROUNDS_ALONE = 2

OURS = "Postern"
#: Of each cell and another server: our rate at least, our CPU for a mail at most, as multiples of its own.
TARGETS = [
    (CELLS[0], "Postfix", 2, None),
    *((cell, "Postfix", 5, 1 / 5) for cell in peers.CELLS),
    (CELLS[3], "Postfix", 4, 1 / 4),
    (CELLS[4], "Postfix", 3, 1 / 4),
    (BIG, ALONE, 0.6, None),
    *((cell, "Haraka", 8, None) for cell in peers.CELLS),
    *((cell, "Postfix-milter", 8, None) for cell in peers.CELLS),
]
#: Cores busy with other things, above which a run is not to be trusted.
NOISE = 0.3


def runs(bench, rows):
    """Appends the rows of all cells. The servers run side by side and idle while it is not their turn."""
    for cell in peers.CELLS if bench.peers_only else CELLS:
        if bench.plan.is_over():
            break
        servers = [server for server in bench.servers if server.cells is None or cell in server.cells]
        with running(servers, bench.sink):
            mails = {server: calibrated(cell, server, bench) for server in [*servers, None]}
            for round_number in range(bench.plan.rounds):
                if bench.plan.is_over():
                    break
                alone = [None] if cell is BIG or round_number < ROUNDS_ALONE else []
                for server in turn(servers, round_number) + alone:
                    keep(measure(cell, server, bench.sink, mails[server], round_number + 1), rows)


def keep(row, rows):
    rows.append(row)
    log(f"{row.work}, round {row.round}: {row.server} {row.rate:.0f}/s, {row.cpu_ms:.2f} ms")


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


def turn(servers, round_number):
    """Who comes first changes from round to round."""
    return list(servers) if round_number % 2 == 0 else list(reversed(servers))


def calibrated(cell, server, bench):
    """How many mails keep this server busy for so long. Warms it up, too."""
    least = max(2 * cell.sessions, 30)
    mails = max(least, (800 << 10) // cell.size)
    for share in (0.3, 1.0):
        rate = measure(cell, server, bench.sink, mails, 0).rate
        mails = max(least, round(rate * bench.plan.seconds * share))
    return mails


def rate(row):
    """Mails a second."""
    return row.rate


def cpu(row):
    """Milliseconds for a mail."""
    return row.cpu_ms


def of(rows, cell, server):
    return [row for row in rows if row.cell == cell and row.server == server]


def text(rows):
    head = ["work", "against", "Postern /s", "its /s", "rate", "(rounds)", "Postern ms", "its ms", "CPU", "(rounds)"]
    head += ["Postern MiB", "its MiB", ""]
    lines = []
    for cell, name in unique((row.cell, row.server) for row in rows):
        if name != OURS:
            lines.append([cell, name, *rate_line(of(rows, cell, OURS), of(rows, cell, name), name)])
    return table(head, lines)


def rate_line(ours, theirs, name):
    costs = [""] * 6
    if name != ALONE:
        costs = [number(median(rows, cpu)) for rows in (ours, theirs)] + ratio(ours, theirs, cpu)
        costs += [number(median(rows, lambda row: row.pss_mib)) for rows in (ours, theirs)]
    return [
        *(number(median(rows, rate)) for rows in (ours, theirs)),
        *ratio(ours, theirs, rate),
        *costs,
        "disturbed" if any(row.other_cores > NOISE for row in ours + theirs) else "",
    ]


def verdicts(rows):
    found = []
    for cell, name, least, most in TARGETS:
        ours, theirs = (of(rows, cell.name, server) for server in (OURS, name))
        found.append(Verdict(cell.name, name, "rate", median_quotient(ours, theirs, rate), least=least))
        if most:
            found.append(Verdict(cell.name, name, "CPU for a mail", median_quotient(ours, theirs, cpu), most=most))
    return found
