"""The table at the end of a run: who was tested in what, with what result, and why the rest does not apply."""

from __future__ import annotations

from dataclasses import dataclass, field

FAILED, SKIPPED, OK = "FAILED", "not run", "ok"
# Left out by the choice of tests.
NOT_ASKED = "-"


@dataclass
class Table:
    title: str
    # (row, column) → result. In the order in which they came.
    cells: dict[tuple[str, str], str] = field(default_factory=dict)
    # (row, column) → why it does not apply.
    reasons: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, row: str, column: str, result: str) -> None:
        """The worst result of a cell's tests is the cell's."""
        worst = [FAILED, SKIPPED, OK]
        before = self.cells.get((row, column), OK)
        self.cells[row, column] = min(before, result, key=worst.index)

    def lines(self) -> list[str]:
        known = list(self.cells) + list(self.reasons)
        rows, columns = (list(dict.fromkeys(cell[n] for cell in known)) for n in (0, 1))
        notes: dict[str, int] = {}

        def show(row: str, column: str) -> str:
            if (row, column) in self.cells:
                return self.cells[row, column]
            reason = self.reasons.get((row, column))
            return f"n.a. {notes.setdefault(reason, len(notes) + 1)}" if reason else NOT_ASKED

        grid = [["", *rows]] + [[column, *(show(row, column) for row in rows)] for column in columns]
        widths = [max(len(line[n]) for line in grid) for n in range(len(grid[0]))]
        shown = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in grid]
        return [self.title, "", *shown, "", *(f"  n.a. {number}: {reason}" for reason, number in notes.items())]
