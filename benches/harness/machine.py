"""The machine and the disk that the figures belong to."""

import os
import platform
import statistics
import subprocess
import time
from pathlib import Path

IN_MEMORY = {"tmpfs", "ramfs", "devtmpfs"}


class NotADisk(Exception):
    pass


def filesystem(directory):
    """(type, device) of where a directory lies; a sync there must mean something."""
    best = ("", "", "")
    target = str(Path(directory).resolve())
    for line in Path("/proc/self/mounts").read_text().splitlines():
        device, point, kind = line.split()[:3]
        inside = point == "/" or target == point or target.startswith(point + "/")
        if inside and len(point) >= len(best[0]):
            best = (point, kind, device)
    _, kind, device = best
    if kind in IN_MEMORY:
        raise NotADisk(f"{directory} is on {kind}, where a sync costs nothing. SCRATCH= names a directory on a disk.")
    return kind, device


def sync_latency(directory, count=300):
    """Microseconds (median, 99th of 100) of a write of 4 KiB and fdatasync, appended to one file, by one writer."""
    path = Path(directory) / "sync-latency"
    block = os.urandom(4096)
    times = []
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        for _ in range(count):
            since = time.perf_counter()
            os.write(file, block)
            os.fdatasync(file)
            times.append((time.perf_counter() - since) * 1e6)
    finally:
        os.close(file)
        path.unlink()
    times.sort()
    return statistics.median(times), times[int(len(times) * 0.99)]


def description():
    """Pairs for the head of the results."""
    models = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    names = [line.partition("=")[2] for line in _lines("/etc/os-release") if line.startswith("PRETTY_NAME")]
    system = "".join(names).strip('"')
    return [
        ("Processor", f"{os.cpu_count()} × {models[0] if models else platform.machine()}"),
        ("Memory", f"{memory / 1024 / 1024:.0f} GiB"),
        ("System", f"{system}, Linux {platform.release()}"),
    ]


def output_of(*command):
    """The first line that a command prints; for versions."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout.strip() or done.stderr.strip()).partition("\n")[0]


def _lines(path):
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
