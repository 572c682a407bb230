"""`make profile`: where a gateway under the load of the bench spends its time, as a flame graph. ../README.md says how to read it."""

import argparse
import collections
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "harness"))

import servers
from work import Cell, Failed, Sink, Source, smtp_source

CELL = Cell(4 << 10, 20)
#: Mails before the profile: connections, buffers and pools are there then, and their rate says how many are needed.
WARM_UP = 3000
#: Samples a second of CPU time; odd, so that nothing periodic falls in with it.
FREQUENCY = 997
#: By the clock of the processor's time: the counters of the processor itself are missing in most virtual machines.
EVENT = "cpu-clock"
INFERNO = "0.12.3"
#: Up to this one a user may look at programs of his own.
MAX_PARANOID = 2
PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")
#: Lines of the table.
SHOWN = 25


def main():
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    os.environ["PATH"] = f"{options.tools}/bin:{os.environ['PATH']}:/usr/sbin"
    try:
        need_smtp_source()
        event = need_perf()
        need_inferno(options)
        options.out.mkdir(parents=True, exist_ok=True)
        record(options, event)
        stacks = fold(options.out)
    except (servers.NotReady, Failed) as error:
        print(f"profile: {error}", file=sys.stderr)
        return 1
    draw(options.out, stacks)
    print(table(stacks))
    print(f"{options.out / 'postern.svg'} is the flame graph: open it in a browser, click to look closer")
    return 0


def arguments():
    parser = argparse.ArgumentParser(prog="make profile", description=__doc__)
    parser.add_argument("--postern", required=True, help="the program, built for release with frame pointers")
    parser.add_argument("--out", type=Path, required=True, help="the directory for what comes out")
    parser.add_argument("--tools", type=Path, required=True, help="where inferno is, or is installed to")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--scratch", default="/var/tmp", help="a directory on a real disk")
    return parser.parse_args()


def may_install():
    return os.geteuid() == 0 and shutil.which("apt-get")


def need_smtp_source():
    if not all(map(shutil.which, ("smtp-source", "smtp-sink"))):
        raise servers.NotReady("smtp-source and smtp-sink are missing: Debian's package postfix has them; `make bench` installs it")


def need_perf():
    """The event that may be recorded here."""
    if not shutil.which("perf"):
        if not may_install():
            raise servers.NotReady("perf is missing: apt-get install linux-perf")
        for command in (["update"], ["install", "-y", "--no-install-recommends", "linux-perf"]):
            subprocess.run(["apt-get", *command], stdout=sys.stderr, check=False)
    paranoid = int(PARANOID.read_text()) if PARANOID.exists() else MAX_PARANOID
    # Root sees the kernel's part of a system call, others only their own.
    event = EVENT if os.geteuid() == 0 or paranoid < MAX_PARANOID else f"{EVENT}:u"
    with tempfile.NamedTemporaryFile() as nothing:
        tried = subprocess.run(
            ["perf", "record", "-e", event, "-o", nothing.name, "--", "true"], capture_output=True, text=True, check=False
        )
    if tried.returncode:
        raise servers.NotReady(
            f"perf may not record here: run as root, or set kernel.perf_event_paranoid to {MAX_PARANOID} (it is {paranoid});"
            f" a container needs CAP_PERFMON besides.\nIt says: {tried.stderr.strip()[-600:]}"
        )
    if event != EVENT:
        log("not as root: what the kernel does in system calls is missing in the picture")
    return event


def need_inferno(options):
    if shutil.which("inferno-flamegraph") and shutil.which("inferno-collapse-perf"):
        return
    log(f"installing inferno {INFERNO} into {options.tools}")
    command = ["cargo", "install", "--quiet", "--locked", "--root", str(options.tools), "--version", INFERNO, "inferno"]
    if subprocess.run(command, check=False).returncode:
        raise servers.NotReady("inferno, which draws, could not be installed")


def record(options, event):
    """Leaves perf's file behind."""
    scratch = Path(tempfile.mkdtemp(prefix="postern-profile-", dir=options.scratch))
    sink, gateway = Sink(), servers.Postern(scratch, options.postern)
    try:
        sink.start()
        gateway.start(sink.port)
        rate = WARM_UP / send(gateway, sink, WARM_UP)
        mails = int(rate * options.seconds)
        log(f"{rate:.0f} mails a second; {mails} are recorded")
        command = ["perf", "record", "-q", "-F", str(FREQUENCY), "-e", event, "--call-graph", "fp"]
        data = options.out / "perf.data"
        data.unlink(missing_ok=True)
        perf = subprocess.Popen([*command, "-p", str(gateway.root()), "-o", str(data)], stdin=subprocess.DEVNULL)
        try:
            took = send(gateway, sink, mails)
        finally:
            # It writes what it has.
            perf.send_signal(signal.SIGINT)
            perf.wait(60)
        log(f"{mails / took:.0f} mails a second while it recorded")
    finally:
        gateway.stop()
        sink.stop()
        shutil.rmtree(scratch, ignore_errors=True)


def send(gateway, sink, mails):
    """Seconds until the last one was at the sink."""
    target, begun = sink.mails + mails, time.monotonic()
    source = Source(smtp_source(gateway.port, CELL, mails))
    while not source.has_ended():
        time.sleep(0.01)
    if source.status != 0 or not sink.wait_for(target, 30):
        raise Failed(f"{target - sink.mails} of {mails} mails are missing:\n{gateway.output()}")
    return time.monotonic() - begun


def fold(out):
    """Each stack as one line, from the thread's name to the function that ran, and how often it was seen; also in a file."""
    script = ["perf", "script", "--no-inline", "-i", str(out / "perf.data"), "-F", "comm,pid,tid,time,event,ip,sym,dso"]
    with subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as perf:
        folded = subprocess.run(["inferno-collapse-perf", "-q"], stdin=perf.stdout, capture_output=True, text=True, check=False)
    if folded.returncode:
        raise servers.NotReady(f"perf's stacks could not be folded: {folded.stderr.strip()[-600:]}")
    # perf would look there for the names of what wasmtime has compiled.
    stacks = re.sub(r"\[perf-\d+\.map\]", "[plugin code]", folded.stdout)
    (out / "stacks.folded").write_text(stacks)
    return stacks


def draw(out, stacks):
    options = ["--title", f"Postern, {CELL.name}, by thread", "--countname", "samples", "--hash"]
    with open(out / "postern.svg", "w") as picture:
        subprocess.run(["inferno-flamegraph", *options], input=stacks, stdout=picture, text=True, check=True)


def table(stacks):
    """Threads, and functions by the time in themselves, in per cent of all."""
    threads, functions, total = collections.Counter(), collections.Counter(), 0
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        thread, *frames = stack.split(";")
        threads[thread] += int(count)
        functions[frames[-1] if frames else thread] += int(count)
        total += int(count)
    lines = [f"{total} samples, {FREQUENCY} a second of CPU time"]
    for title, counted in (("by thread", threads), ("in the function itself", functions)):
        lines.append(f"\n{title}:")
        lines += [f"  {100 * count / total:5.1f} %  {name}" for name, count in counted.most_common(SHOWN)]
    return "\n".join(lines)


def log(text):
    print(f"profile: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
