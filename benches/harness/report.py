"""What was measured becomes `RESULTS.md`."""

import dataclasses
import json

from figures import bullets, verdict_table

NOT_MEASURED = [
    "rates with TLS, on either side",
    "DNS beside the peers: no server looks anything up there, so plugins that would ask DNS have nothing to ask",
    "disks whose syncs are slow in another way than by a fixed time each; several disks, more cores than this machine has",
    "mail with more than one recipient, mail that is refused or bounced",
    "recovery after a crash, with a queue that is long",
]


def write(path, facts, parts, found, verdicts, remarks):
    """`parts`: the modules by name; `found`: their rows."""
    sections = [(parts[name].TITLE, parts[name].text(rows)) for name, rows in found.items() if rows]
    if verdicts:
        sections.insert(0, ("Targets", verdict_table(verdicts)))
    texts = [
        "# Results\n\nWritten by `make bench`; [`README.md`](README.md) says what is measured and how to read it.\n",
        section("Machine and settings", bullets(f"{name}: {value}" for name, value in facts)),
        *(section(title, text) for title, text in sections),
        section("Not measured", bullets(NOT_MEASURED)),
        section("Remarks", bullets(remarks)) if remarks else "",
        section("Rows", raw(found)),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(filter(None, texts)))


def section(title, text):
    return f"## {title}\n\n{text}\n"


def raw(found):
    """One JSON object a line: everything that was seen."""
    lines = [
        json.dumps({"part": name, **{key: rounded(value) for key, value in dataclasses.asdict(row).items()}})
        for name, rows in found.items()
        for row in rows
    ]
    return "```json\n" + "\n".join(lines) + "\n```"


def rounded(value):
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, list):
        return [rounded(element) for element in value]
    return value
