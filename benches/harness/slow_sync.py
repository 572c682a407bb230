"""A disk whose syncs take 2 ms longer: the gateway beside itself, alternately. A group commit should hardly notice."""

import compare
import install
import peers
from figures import Verdict, median, median_quotient, number, ratio, table, unique
from servers import BENCHES, Postern
from work import Failed, Load, measure

TITLE = "Slow syncs"
SECONDS = 130

CELLS = peers.CELLS
#: Added to each sync.
MICROSECONDS = 2000
#: Our rate, as a multiple of that without.
TARGET = 0.9
PLAIN, SLOW = "Postern", "Postern-slow-sync"


def runs(bench, rows):
    library = install.compiled(BENCHES / "harness/slow_sync.c", "-shared", "-fPIC", "-ldl")
    environment = {"LD_PRELOAD": str(library), "SLOW_SYNC_US": str(MICROSECONDS)}
    gateways = [Postern(bench.scratch, bench.program), Postern(bench.scratch, bench.program, SLOW, None, environment)]
    with compare.running(gateways, bench.sink):
        check_slowness(bench, gateways[1])
        for cell in CELLS:
            if bench.plan.is_over():
                break
            mails = {gateway: compare.calibrated(cell, gateway, bench) for gateway in gateways}
            for round_number in range(bench.plan.rounds):
                if bench.plan.is_over():
                    break
                for gateway in compare.turn(gateways, round_number):
                    compare.keep(measure(cell, gateway, bench.sink, mails[gateway], round_number + 1), rows)


def check_slowness(bench, gateway):
    """The library is at work: one that a program does not notice would measure nothing."""
    target = bench.sink.mails + 20
    seen = Load(bench.load, gateway.port, 1, mails=20).stop()
    bench.sink.wait_for(target, 30)
    if seen["times_us"]["message"]["p50"] < MICROSECONDS:
        raise Failed("the library does not reach the syncs of this program")


def text(rows):
    head = ["work", "slow /s", "plain /s", "rate", "(rounds)", "slow ms", "plain ms", "CPU", "(rounds)"]
    lines = []
    for cell in unique(row.cell for row in rows):
        both = slow, plain = [compare.of(rows, cell, name) for name in (SLOW, PLAIN)]
        line = [cell]
        for value in (compare.rate, compare.cpu):
            line += [number(median(some, value)) for some in both] + ratio(slow, plain, value)
        lines.append(line)
    return f"{MICROSECONDS / 1000:g} ms are added to each fsync and fdatasync of the gateway.\n\n{table(head, lines)}"


def verdicts(rows):
    found = []
    for cell in CELLS:
        value = median_quotient(compare.of(rows, cell.name, SLOW), compare.of(rows, cell.name, PLAIN), compare.rate)
        found.append(Verdict(f"{cell.name}, 2 ms added to each sync", "Postern without", "rate", value, least=TARGET))
    return found
