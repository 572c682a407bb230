"""What a server's processes cost, all of them: read from /proc, so no cgroup is needed."""

import os
import signal
import subprocess
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def tree(*roots):
    """The process ids of `roots` and of all below them."""
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat(entry)):
            children.setdefault(int(fields[1]), []).append(int(entry))
    found, rest = [], list(roots)
    while rest:
        pid = rest.pop()
        found.append(pid)
        rest.extend(children.get(pid, []))
    return found


def cpu_seconds(*roots):
    """CPU time of the trees so far, with that of their children that have ended and been waited for."""
    return sum(_own_cpu(pid) for pid in tree(*roots))


def _own_cpu(pid):
    fields = _stat(pid)
    if not fields:
        return 0.0
    own, reaped = sum(map(int, fields[11:13])), sum(map(int, fields[13:15]))
    if int(fields[17]) == 1:
        # To the nanosecond; ticks of 10 ms are too coarse for a hundred small processes.
        try:
            return int(_read(f"/proc/{pid}/schedstat").split()[0]) / 1e9 + reaped / TICKS
        except (OSError, IndexError):
            pass
    return (own + reaped) / TICKS


def memory_mib(*roots):
    """Proportional and plain resident memory of the trees. The first counts a page that n processes share as 1/n."""
    proportional = resident = 0
    for pid in tree(*roots):
        for line in _lines(f"/proc/{pid}/smaps_rollup"):
            if line.startswith("Pss:"):
                proportional += int(line.split()[1])
            elif line.startswith("Rss:"):
                resident += int(line.split()[1])
    return proportional / 1024, resident / 1024


def machine_busy_seconds():
    """CPU time of everything on this machine since it started."""
    user, nice, system, _, _, irq, softirq, steal = map(int, _read("/proc/stat").split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS


def end(process, pid=None):
    """Ends a process that we started, or the one with `pid` that it waits for: TERM, then KILL."""
    for number, patience in ((signal.SIGTERM, 20), (signal.SIGKILL, 5)):
        if process.poll() is not None:
            return
        try:
            os.kill(pid or process.pid, number)
            process.wait(patience)
        except ProcessLookupError:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue


def wait_until(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} after {seconds} s")
        time.sleep(0.01)


def _stat(pid):
    """The fields after the command's name, which may hold anything; None: it has ended."""
    try:
        return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    except OSError:
        return None


def _read(path):
    return Path(path).read_text(encoding="ascii", errors="replace")


def _lines(path):
    try:
        return _read(path).splitlines()
    except OSError:
        return []
