"""Rows become `RESULTS.md`."""

import dataclasses
import json
import statistics

import chain

CHAINS = (chain.NONE, chain.DEFAULT)
COMMANDS = [("MAIL", "MAIL"), ("RCPT", "RCPT"), ("DATA", "DATA"), ("message", "the message")]

#: Cores busy with other things, above which a run is not to be trusted.
NOISE = 0.3

NOT_MEASURED = [
    "TLS, on either side",
    "DNS: neither server looks anything up, so plugins that would ask DNS have nothing to ask",
    "disks with slow syncs, several disks, more cores than this machine has",
    "mail with more than one recipient, mail that is refused, deferred or bounced, a queue that is already long",
    "idle connections, start and recovery",
    "peers other than Postfix",
]


def write(path, facts, rows, replies, chains, swaps, remarks):
    parts = [
        "# Results\n\nWritten by `make bench`; [`README.md`](README.md) says what is measured and how to read it.\n",
        section("Machine and settings", bullets(f"{name}: {value}" for name, value in facts)),
        section("Rate and cost", rate_table(rows)) if rows else "",
        section("Replies at the same load", reply_table(replies)) if replies else "",
        section("The default chain", chain_table(chains)) if chains else "",
        section("Plugin swap under load", swap_table(swaps)) if swaps else "",
        section("Not measured", bullets(NOT_MEASURED)),
        section("Remarks", bullets(remarks)) if remarks else "",
        section("Rows", raw(rows, replies, chains, swaps)),
    ]
    path.write_text("\n".join(filter(None, parts)))


def section(title, text):
    return f"## {title}\n\n{text}\n"


def bullets(lines):
    return "\n".join(f"- {line}" for line in lines)


def table(head, lines):
    body = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in body)


def rate_table(rows):
    head = ["work", "Postern /s", "Postfix /s", "rate", "(rounds)", "Postern ms", "Postfix ms", "CPU", "(rounds)"]
    head += ["Postern MiB", "Postfix MiB", "harness alone /s", ""]
    lines = []
    for cell in unique(row.cell for row in rows):
        here = [row for row in rows if row.cell == cell]
        ours, theirs, alone = ([row for row in here if row.server == name] for name in ("Postern", "Postfix", "alone"))
        rate, cpu = (lambda row: row.rate), (lambda row: row.cpu_ms)
        lines.append(
            [
                cell,
                number(median(ours, rate)),
                number(median(theirs, rate)),
                *ratio(ours, theirs, rate),
                number(median(ours, cpu)),
                number(median(theirs, cpu)),
                *ratio(ours, theirs, cpu),
                number(median(ours, lambda row: row.pss_mib)),
                number(median(theirs, lambda row: row.pss_mib)),
                number(median(alone, rate)),
                "disturbed" if any(row.other_cores > NOISE for row in here) else "",
            ]
        )
    return table(head, lines)


def reply_table(replies):
    head = ["work", "offered /s", "reply to", "Postern p50", "p99", "Postfix p50", "p99", "p50", "p99"]
    lines = []
    for cell in unique(run.cell for run in replies):
        ours, theirs = (
            [run for run in replies if run.cell == cell and run.server == name] for name in ("Postern", "Postfix")
        )
        for command, label in COMMANDS:
            p50, p99 = (lambda run, p=p: run.seen["times_us"][command][p] / 1000 for p in ("p50", "p99"))
            offered = number((ours or theirs)[0].offered)
            values = [median(runs, p) for runs in (ours, theirs) for p in (p50, p99)]
            quotients = [quotient(median(ours, p), median(theirs, p)) for p in (p50, p99)]
            lines.append([cell, offered, label, *map(number, values), *map(times, quotients)])
    return "Milliseconds; the last two columns are Postern's share of Postfix's.\n\n" + table(head, lines)


def chain_table(chains):
    """CPU for one mail with the default chain and without a plugin."""
    cpu, rate = (lambda row: row.cpu_ms), (lambda row: row.rate)
    head = ["work", "no plugin ms", "default chain ms", "CPU", "(rounds)", "target", "no plugin /s", "default chain /s"]
    lines = []
    for work in unique(row.work for row in chains):
        here = [row for row in chains if row.work == work]
        without, default = ([row for row in here if row.server == name] for name in CHAINS)
        line = [
            work,
            *(number(median(rows, cpu)) for rows in (without, default)),
            *ratio(default, without, cpu),
            f"at most {chain.TARGET}" if here[0].offered else "",
            *(number(median(rows, rate)) for rows in (without, default)),
        ]
        lines.append(line)
    return "CPU of the gateway for one unsigned mail, DNS answers out of its cache.\n\n" + table(head, lines)


def dear(chains):
    """At the same rate the default chain costs more than it may."""
    steady = [row for row in chains if row.offered]
    cost = {name: median([row for row in steady if row.server == name], lambda row: row.cpu_ms) for name in CHAINS}
    value = quotient(cost[chain.DEFAULT], cost[chain.NONE])
    if value is None or value <= chain.TARGET:
        return []
    return [f"the default chain takes {value:.2f} of the CPU without plugins, at most {chain.TARGET} was the aim"]


def swap_table(swaps):
    without, with_swaps = ([run for run in swaps if bool(run.swaps) == swapped] for swapped in (False, True))
    if not with_swaps:
        return "No run was completed."
    head = ["reply to", "without: p50", "p99", "p99.9", "with swaps: p50", "p99", "p99.9", "p99", "target"]
    lines = []
    for command, label in COMMANDS:
        p50, p99, p999 = (lambda run, p=p: run.seen["times_us"][command][p] / 1000 for p in ("p50", "p99", "p999"))
        values = [median(runs, p) for runs in (without, with_swaps) for p in (p50, p99, p999)]
        grown = quotient(median(with_swaps, p99), median(without, p99))
        lines.append([label, *map(number, values), times(grown), "at most 2.0"])
    each = sorted(second for run in with_swaps for second in run.swap_seconds)
    facts = [
        f"{with_swaps[0].swaps} swaps in a run of {with_swaps[0].seen['seconds']:.0f} s, {len(with_swaps)} such runs; "
        f"a swap took {statistics.median(each) * 1000:.0f} ms (median), {each[-1] * 1000:.0f} ms at most",
        f"{with_swaps[0].offered:.0f} mails a second from 20 sessions, half of what the gateway takes without a pause",
        "; ".join(f"{name}: {account(runs)}" for name, runs in (("without", without), ("with swaps", with_swaps))),
    ]
    return f"{bullets(facts)}\n\nMilliseconds.\n\n{table(head, lines)}"


def account(runs):
    taken, refused, broken, arrived = (
        sum(values)
        for values in zip(*((r.seen["taken"], r.seen["refused"], r.seen["broken"], r.arrived) for r in runs))
    )
    return f"{taken} mails taken, {arrived} arrived, {refused} error replies, {broken} broken sessions"


def failures(swaps):
    """What a swap must never do."""
    found = []
    for run in swaps:
        seen = run.seen
        where = f"swap round {run.round} with {run.swaps} swaps"
        if seen["refused"] or seen["broken"]:
            counts = f"{seen['refused']} error replies, {seen['broken']} broken sessions"
            found.append(f"{where}: {counts}: {seen['trouble']}")
        if run.arrived != seen["taken"]:
            found.append(f"{where}: {seen['taken']} mails were taken and {run.arrived} arrived")
    return found


def slower(rows):
    """The cells in which Postern's median rate is below Postfix's."""
    found = []
    for cell in unique(row.cell for row in rows):
        ours, theirs = ([r for r in rows if r.cell == cell and r.server == name] for name in ("Postern", "Postfix"))
        value = quotient(median(ours, lambda row: row.rate), median(theirs, lambda row: row.rate))
        if value is not None and value < 1:
            found.append(f"{cell}: {value:.2f} of Postfix's rate")
    return found


def raw(rows, replies, chains, swaps):
    """One JSON object a line: everything that was seen."""
    lines = [
        json.dumps({"kind": kind, **{name: rounded(value) for name, value in dataclasses.asdict(row).items()}})
        for kind, some in (("rate", rows), ("replies", replies), ("chain", chains), ("swap", swaps))
        for row in some
    ]
    return "```json\n" + "\n".join(lines) + "\n```"


def rounded(value):
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, list):
        return [rounded(element) for element in value]
    return value


def unique(values):
    return list(dict.fromkeys(values))


def median(rows, value):
    return statistics.median(map(value, rows)) if rows else None


def quotient(a, b):
    return a / b if a is not None and b else None


def ratio(ours, theirs, value):
    """Of the medians; and the least and the greatest of single rounds."""
    other = {row.round: row for row in theirs}
    single = [value(row) / value(other[row.round]) for row in ours if row.round in other and value(other[row.round])]
    spread = f"{min(single):.2f}–{max(single):.2f}" if single else ""
    return [times(quotient(median(ours, value), median(theirs, value))), spread]


def times(value):
    return "" if value is None else f"**{value:.2f}**"


def number(value):
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
