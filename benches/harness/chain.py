"""What the default chain costs: the same mails through a gateway with it and through one without a plugin, alternately.

At the same rate: then both wake up as often and gather as many mails for one sync of the disk, and what is left between them is
the chain. Without a pause they do not: the gateway that takes more mails a second shares more of that work among them.

The mails are unsigned; SPF passes, DMARC is aligned by it, and DNS answers come out of the gateway's cache after the first.
"""

import socket
import struct
import threading
from dataclasses import replace

import compare
from figures import Verdict, median, median_quotient, number, ratio, table, unique
from servers import BENCHES, Postern, filled
from work import Cell, load, measure

TITLE = "The default chain"
SECONDS = 270

#: The cell without a pause.
CELL = Cell(4 << 10, 20)
#: CPU with the default chain, as a multiple of what it is without plugins.
TARGET = 1.4

TXT, MX, A, SOA = 16, 15, 1, 6
TTL = 3600
RECORDS = {
    ("example.org", TXT): [b"v=spf1 ip4:127.0.0.1 -all"],
    ("example.org", MX): [(10, "mx.example.org")],
    ("example.org", A): ["127.0.0.1"],
    ("_dmarc.example.org", TXT): [b"v=DMARC1; p=reject"],
    ("client.example.org", A): ["127.0.0.1"],
    ("client.example.org", TXT): [b"v=spf1 a -all"],
}


class NameServer:
    """Answers from RECORDS; of anything else, that there is none, for so long that it is remembered, too."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]

    def start(self):
        threading.Thread(target=self._serve, daemon=True).start()

    def stop(self):
        self.socket.close()

    def _serve(self):
        while True:
            try:
                query, client = self.socket.recvfrom(4096)
                self.socket.sendto(answer(query), client)
            except OSError:
                return


def answer(query):
    """RFC 1035 §4.1, of one question."""
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode("ascii", "replace").lower())
        at += 1 + query[at]
    question, name = query[12 : at + 5], ".".join(labels)
    kind = struct.unpack_from("!H", query, at + 1)[0]
    records = [record(kind, value) for value in RECORDS.get((name, kind), [])]
    exists = any(known == name or known.endswith(f".{name}") for known, _ in RECORDS)
    status = 0 if exists else 3
    numbers = struct.pack("!2sHHHHH", query[:2], 0x8580 | status, 1, len(records), 0 if records else 1, 0)
    nothing = struct.pack("!5I", 1, TTL, TTL, TTL, TTL)
    authority = b"" if records else b"\0" + resource(SOA, encoded("ns") + encoded("admin") + nothing)
    return numbers + question + b"".join(records) + authority


def record(kind, value):
    if kind == A:
        data = socket.inet_aton(value)
    elif kind == MX:
        data = struct.pack("!H", value[0]) + encoded(value[1])
    else:
        data = bytes([len(value)]) + value
    # The name of the question.
    return b"\xc0\x0c" + resource(kind, data)


def resource(kind, data):
    return struct.pack("!HHIH", kind, 1, TTL, len(data)) + data


def encoded(name):
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


class Chained(Postern):
    """A gateway with another chain than that of the comparison."""

    def __init__(self, scratch, program, name, chain, dns):
        super().__init__(scratch, program, name)
        self.chain, self.dns = chain, dns

    def prepare(self, sink_port):
        (self.directory / "spool").mkdir()
        values = {"port": self.port, "sink": sink_port, "dns": self.dns, "chain": self.chain}
        self.config.write_text(filled(BENCHES / "chain.toml", **values))
        return [self.program, "--config", str(self.config), "serve"]


NONE, DEFAULT = "no-plugin", "default-chain"
#: Mails a second of the comparison, as a part of what the gateway with the chain takes without a pause.
LOAD = 0.5


def runs(bench, rows):
    names = NameServer()
    names.start()
    gateways = [
        Chained(bench.scratch, bench.program, NONE, "[chain]\nplatform = []", names.port),
        Chained(bench.scratch, bench.program, DEFAULT, "", names.port),
    ]
    try:
        with compare.running(gateways, bench.sink):
            without_pause(bench, gateways, rows)
            for cell in compare.CELLS:
                if bench.plan.is_over():
                    break
                offered = round(LOAD * reached(bench, cell, gateways[1], rows))
                for round_number in range(bench.plan.few_rounds):
                    for gateway in compare.turn(gateways, round_number):
                        compare.keep(steady(cell, gateway, bench, round_number + 1, offered), rows)
    finally:
        names.stop()


def without_pause(bench, gateways, rows):
    mails = {gateway: compare.calibrated(CELL, gateway, bench) for gateway in gateways}
    for round_number in range(bench.plan.few_rounds):
        for gateway in compare.turn(gateways, round_number):
            compare.keep(measure(CELL, gateway, bench.sink, mails[gateway], round_number + 1), rows)


def reached(bench, cell, gateway, rows):
    """Mails a second that the gateway with the chain takes without a pause; of the comparison where it was measured."""
    seen = compare.of(rows, cell.name, DEFAULT) if cell == CELL else []
    seen = seen or compare.of(bench.found.get("compare", []), cell.name, compare.OURS)
    return median(seen, compare.rate) if seen else compare.calibrated(cell, gateway, bench) / bench.plan.seconds


def steady(cell, gateway, bench, round_number, offered):
    mails = round(offered * bench.plan.seconds)
    once = ["--mails-per-session", "1"] if cell.reconnect else []
    command = load(bench.load, gateway.port, cell.sessions, cell.size, mails, offered, once)
    return replace(measure(cell, gateway, bench.sink, mails, round_number, command), offered=offered)


def of(rows, work, server):
    return [row for row in rows if row.work == work and row.server == server]


def text(rows):
    """CPU for one mail with the default chain and without a plugin."""
    head = ["work", "no plugin ms", "default chain ms", "CPU", "(rounds)", "no plugin /s", "default chain /s"]
    lines = []
    for work in unique(row.work for row in rows):
        both = without, default = [of(rows, work, name) for name in (NONE, DEFAULT)]
        line = [work, *(number(median(some, compare.cpu)) for some in both), *ratio(default, without, compare.cpu)]
        lines.append(line + [number(median(some, compare.rate)) for some in both])
    return "CPU of the gateway for one unsigned mail, DNS answers out of its cache.\n\n" + table(head, lines)


def verdicts(rows):
    """At the same rate."""
    found = []
    for cell in compare.CELLS:
        steady_rows = [row for row in rows if row.offered and row.cell == cell.name]
        default, without = ([row for row in steady_rows if row.server == name] for name in (DEFAULT, NONE))
        value = median_quotient(default, without, compare.cpu)
        found.append(Verdict(f"{cell.name}, at the same rate", "no plugin", "CPU for a mail", value, most=TARGET))
    return found
