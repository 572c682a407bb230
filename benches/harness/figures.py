"""Numbers and tables of the results."""

import statistics
from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """A figure beside its target; `least` and `most` are in the figure's own unit, a ratio has none."""

    work: str
    against: str
    figure: str
    #: `None`: it could not be measured.
    value: float | None
    least: float | None = None
    most: float | None = None
    unit: str = ""

    @property
    def met(self):
        """`None`: nobody can say."""
        if self.value is None:
            return None
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)

    @property
    def target(self):
        if self.least is not None and self.most is not None:
            return f"{self.least:g} to {self.most:g}{self.unit}"
        bound = "at least" if self.most is None else "at most"
        return f"{bound} {self.least if self.most is None else self.most:g}{self.unit}"

    def __str__(self):
        against = f" against {self.against}" if self.against else ""
        return f"{self.work}{against}: {self.figure} {number(self.value)}{self.unit}, {self.target} was the aim"


def verdict_table(verdicts):
    words = {True: "met", False: "**missed**", None: "not measured"}
    head = ["work", "against", "figure", "measured", "target", ""]
    lines = [
        [v.work, v.against, v.figure, f"{number(v.value)}{v.unit if v.value is not None else ''}", v.target, words[v.met]]
        for v in verdicts
    ]
    return table(head, lines)


def bullets(lines):
    return "\n".join(f"- {line}" for line in lines)


def table(head, lines):
    body = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in body)


def unique(values):
    return list(dict.fromkeys(values))


def median(rows, value):
    return statistics.median(map(value, rows)) if rows else None


def quotient(a, b):
    return a / b if a is not None and b else None


def median_quotient(ours, theirs, value):
    return quotient(median(ours, value), median(theirs, value))


def ratio(ours, theirs, value):
    """Of the medians; and the least and the greatest of single rounds."""
    other = {row.round: row for row in theirs}
    single = [value(row) / value(other[row.round]) for row in ours if row.round in other and value(other[row.round])]
    spread = f"{min(single):.2f}–{max(single):.2f}" if single else ""
    return [times(median_quotient(ours, theirs, value)), spread]


def times(value):
    return "" if value is None else f"**{value:.2f}**"


def number(value):
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
