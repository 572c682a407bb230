"""How long the gateway takes from its exec to the first 220, its compiled plugins in the cache."""

import socket
import time
from dataclasses import dataclass

from bench import log
from figures import Verdict, median, number
from servers import Postern
from work import Failed

TITLE = "Start"
SECONDS = 60

STARTS = 10
#: Milliseconds.
TARGET = 150
PATIENCE = 20.0
#: Seconds between two tries to connect.
STEP = 0.0005


@dataclass
class Row:
    number: int
    milliseconds: float


def runs(bench, rows):
    gateway = Postern(bench.scratch, bench.program)
    # The first start fills the code cache.
    gateway.start(bench.sink.port)
    gateway.stop()
    for place in range(STARTS):
        if bench.plan.is_over():
            break
        begun = time.monotonic()
        gateway.launch(bench.sink.port, keep=True)
        try:
            wait_for_banner(gateway, begun + PATIENCE)
            rows.append(Row(place + 1, (time.monotonic() - begun) * 1000))
        finally:
            gateway.stop()
    log(f"from exec to the first 220: {', '.join(f'{row.milliseconds:.0f}' for row in rows)} ms")


def wait_for_banner(gateway, deadline):
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", gateway.port), PATIENCE) as client:
                if client.recv(512).startswith(b"220"):
                    return
        except OSError:
            pass
        time.sleep(STEP)
    raise Failed(f"no banner after {PATIENCE:.0f} s:\n{gateway.output()}")


def text(rows):
    each = ", ".join(number(row.milliseconds) for row in rows)
    return f"Milliseconds from exec to the first 220, warm code cache, an empty queue: {each}."


def verdicts(rows):
    value = median(rows, lambda row: row.milliseconds)
    return [Verdict("start to first 220, warm code cache", "", "median", value, most=TARGET, unit=" ms")]
