"""What every part of the bench works with."""

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from work import Sink


def log(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


class Plan:
    """How much is measured, and until when."""

    def __init__(self, rounds, seconds, limit, quick):
        #: Of each cell of the comparison.
        self.rounds = rounds
        #: Of the other parts, whose differences are greater than their spread.
        self.few_rounds = min(rounds, 1 if quick else 3)
        #: Runs with and without swaps, alternately: what the machine does meanwhile hits both.
        self.swap_rounds = 1 if quick else 4
        #: Of one run.
        self.seconds = seconds
        self.quick = quick
        self.end = time.monotonic() + limit
        self.deadline = self.end
        self.cut = False

    def begin(self, seconds):
        """A part that may take so long, a quarter of it for a quick look."""
        self.deadline = min(self.end, time.monotonic() + seconds * (0.25 if self.quick else 1))
        self.cut = False

    def left(self):
        """Seconds of this part."""
        return self.deadline - time.monotonic()

    def is_over(self):
        over = self.left() < 0
        if over and not self.cut:
            self.cut = True
            log("the time is used up: what is left of this part is not measured")
        return over


@dataclass
class Bench:
    scratch: Path
    #: The gateway and the timing client.
    program: str
    load: str
    sink: Sink
    plan: Plan
    #: Plugins that are swapped, in all runs together.
    swaps: int
    #: The servers of the comparison, and whether all of its cells are wanted or only those of the peers.
    servers: list
    peers_only: bool = False
    #: What was measured so far, by part.
    found: dict = field(default_factory=dict)
