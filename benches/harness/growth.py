"""CPU for a mail at the same rate, with ever more sessions, and with ever more tenants that have chains of their own.

Looked at in a window of time while the client sends steadily: what it costs to open the connections is not part of it.
"""

import time
from dataclasses import dataclass

import compare
import processes
from bench import log
from figures import Verdict, median, number, quotient, ratio, table, unique
from servers import Postern
from work import Failed, Load

TITLE = "Growth"
SECONDS = 200

SESSIONS = [1, 20, 100, 1000]
TENANTS = [1, 10, 100]
#: Those of the runs with tenants.
TENANT_SESSIONS = 20
SESSION_KIND, TENANT_KIND = "sessions", "tenants"
#: Mails a second, as a part of what one session reaches without a pause.
LOAD = 0.5
#: As multiples of the CPU with one session, or one tenant.
LEAST, MOST = 0.9, 1.1
#: Seconds from the first mail to the window, and how long the last ones may take to arrive.
WARMING, ARRIVAL = 2, 30


@dataclass
class Row:
    kind: str
    count: int
    round: int
    #: Mails a second: offered, and arrived in the window.
    offered: float
    rate: float
    mails: int
    cpu_seconds: float

    @property
    def cpu_ms(self):
        return self.cpu_seconds / self.mails * 1000


def runs(bench, rows):
    tenants = [Postern(bench.scratch, bench.program, f"Postern-{count}-tenants", chains(count)) for count in TENANTS]
    gateway = Postern(bench.scratch, bench.program)
    with compare.running([gateway, *tenants], bench.sink):
        offered = round(LOAD * compare.calibrated(compare.CELLS[0], gateway, bench) / bench.plan.seconds)
        settings = [(SESSION_KIND, count, gateway, count, 1) for count in SESSIONS]
        settings += [(TENANT_KIND, count, server, TENANT_SESSIONS, count) for count, server in zip(TENANTS, tenants)]
        for round_number in range(bench.plan.few_rounds):
            for setting in compare.turn(settings, round_number):
                if bench.plan.is_over():
                    return
                rows.append(window(bench, *setting, round_number + 1, offered))
                row = rows[-1]
                log(f"{row.count} {row.kind} at {offered}/s, round {row.round}: {row.rate:.0f}/s, {row.cpu_ms:.3f} ms")


def chains(count):
    """Tenants each with a chain, a plugin and settings of its own; for the end of the config."""
    lines = []
    for place in range(count):
        name = f"tenant-{place}"
        lines += [
            "[[tenant]]",
            f'name = "{name}"',
            f'domains = ["{domain(place)}"]',
            'destination = { host = "127.0.0.1", port = ${sink}, tls = "never" }',
            'chain = ["house-rules"]',
            "[[plugin]]",
            'name = "house-rules"',
            'source = "builtin:access"',
            f'scope = "tenant:{name}"',
            'grants = ["metrics", "tables"]',
            f'config = {{ rules = [{{ name = "pest", action = "reject", sender = ["pest@{domain(place)}"] }}] }}',
        ]
    return {"": lines}


def domain(place):
    return f"t{place}.example.net"


def window(bench, kind, count, gateway, sessions, tenants, round_number, offered):
    more = ["--to", f"user@{domain('{}')}", "--recipients", str(tenants)] if kind == TENANT_KIND else []
    before = bench.sink.mails
    with Load(bench.load, gateway.port, sessions, rate=offered, more=more) as load:
        # Each session, and each tenant's chain, has had a mail by then.
        time.sleep(WARMING + 2 * max(sessions, tenants) / offered)
        since, first = time.monotonic(), bench.sink.mails
        cpu = processes.cpu_seconds(*gateway.roots())
        time.sleep(bench.plan.seconds)
        mails, cpu = bench.sink.mails - first, processes.cpu_seconds(*gateway.roots()) - cpu
        seconds = time.monotonic() - since
        seen = load.stop()
    bench.sink.wait_for(before + seen["taken"], ARRIVAL)
    if seen["refused"] or seen["broken"] or not mails:
        raise Failed(f"{count} {kind}: {seen['refused']} error replies, {seen['broken']} broken: {seen['trouble']}")
    return Row(kind, count, round_number, offered, mails / seconds, mails, cpu)


def of(rows, kind, count):
    return [row for row in rows if row.kind == kind and row.count == count]


def text(rows):
    head = ["", "offered /s", "arrived /s", "ms", "CPU", "(rounds)"]
    lines = []
    for kind, count in sorted(unique((row.kind, row.count) for row in rows)):
        here, least = of(rows, kind, count), of(rows, kind, 1)
        costs = [number(median(here, compare.cpu)), *ratio(here, least, compare.cpu)]
        lines.append([f"{count} {kind}", number(here[0].offered), number(median(here, compare.rate)), *costs])
    words = "CPU for a mail of 4 KiB, as a multiple of that with one session (of one tenant: from 20 sessions)."
    return f"{words}\n\n{table(head, lines)}"


def verdicts(rows):
    found = []
    for kind, counts in ((SESSION_KIND, SESSIONS), (TENANT_KIND, TENANTS)):
        for count in counts[1:]:
            both = (median(of(rows, kind, some), compare.cpu) for some in (count, 1))
            against = f"1 {kind.removesuffix('s')}"
            found.append(Verdict(f"{count} {kind}", against, "CPU for a mail", quotient(*both), LEAST, MOST))
    return found
