"""What the default chain costs: the same mails through a gateway with it and through one without a plugin, alternately.

At the same rate: then both wake up as often and gather as many mails for one sync of the disk, and what is left between them is
the chain. Without a pause they do not: the gateway that takes more mails a second shares more of that work among them.

The mails are unsigned; SPF passes, DMARC is aligned by it, and DNS answers come out of the gateway's cache after the first.
"""

import socket
import statistics
import struct
import threading
from dataclasses import replace

import compare
from servers import BENCHES, Postern, filled
from work import Cell, load, measure

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
        self.name = name
        super().__init__(scratch, program)
        self.chain, self.dns = chain, dns

    def prepare(self, sink_port):
        (self.directory / "spool").mkdir()
        values = {"port": self.port, "sink": sink_port, "dns": self.dns, "chain": self.chain}
        self.config.write_text(filled(BENCHES / "chain.toml", **values))
        return [self.program, "--config", str(self.config), "serve"]


NONE, DEFAULT = "no-plugin", "default-chain"
#: Mails a second of the comparison, as a part of what the gateway with the chain takes without a pause.
LOAD = 0.5


def runs(scratch, program, sink, plan, log, rows):
    names = NameServer()
    names.start()
    gateways = [
        Chained(scratch, program, NONE, "[chain]\nplatform = []", names.port),
        Chained(scratch, program, DEFAULT, "", names.port),
    ]
    try:
        with compare.running(gateways, sink):
            mails = {gateway: compare.calibrated(CELL, gateway, sink, plan.seconds) for gateway in gateways}
            for number in range(plan.rounds):
                if plan.is_over(log):
                    break
                for gateway in compare.turn(gateways, number):
                    keep(measure(CELL, gateway, sink, mails[gateway], number + 1), rows, log)
            offered = round(LOAD * statistics.median(row.rate for row in rows if row.server == DEFAULT))
            for number in range(plan.rounds):
                if plan.is_over(log):
                    break
                for gateway in compare.turn(gateways, number):
                    keep(steady(gateway, sink, plan, number + 1, offered), rows, log)
    finally:
        names.stop()


def steady(gateway, sink, plan, number, offered):
    mails = round(offered * plan.seconds)
    command = load(plan.load, gateway.port, CELL.sessions, CELL.size, mails, offered)
    return replace(measure(CELL, gateway, sink, mails, number, command), offered=offered)


def keep(row, rows, log):
    rows.append(row)
    log(f"{row.work}, round {row.round}: {row.server} {row.rate:.0f}/s, {row.cpu_ms:.2f} ms")
