"""One measurement: so many mails from a source through a server to the sink, and what it cost."""

import json
import os
import subprocess
import threading
import time
from dataclasses import dataclass, field

import processes
import servers

#: Between two looks at the sink's counter.
STEP = 0.002
#: A run that is not over by then has failed.
PATIENCE = 60.0
#: The name of the source straight to the sink.
ALONE = "harness alone"


@dataclass(frozen=True)
class Cell:
    """A kind of work."""

    size: int
    sessions: int
    #: A connection for each mail.
    reconnect: bool = False

    @property
    def name(self):
        size = f"{self.size >> 20} MiB" if self.size >= 1 << 20 else f"{self.size >> 10} KiB"
        sessions = "1 session" if self.sessions == 1 else f"{self.sessions} sessions"
        return f"{size}, {sessions}" + (", one mail a connection" if self.reconnect else "")


@dataclass
class Row:
    """What one run gave."""

    cell: str
    server: str
    round: int
    mails: int
    #: Until the last one was at the sink, and until the source had its last reply.
    seconds: float
    accepted_seconds: float
    cpu_seconds: float
    source_cpu_seconds: float
    sink_cpu_seconds: float
    #: Cores busy with something that is not ours.
    other_cores: float
    pss_mib: float
    rss_mib: float
    trouble: str = ""
    #: Mails a second that were sent; `None`: as many as were taken.
    offered: int | None = None

    @property
    def rate(self):
        return self.mails / self.seconds

    @property
    def work(self):
        return f"{self.cell}, {self.offered} a second" if self.offered else f"{self.cell}, without a pause"

    @property
    def cpu_ms(self):
        """For one mail."""
        return self.cpu_seconds / self.mails * 1000


class Failed(Exception):
    pass


class Sink:
    """smtp-sink, whose counter is read from its output."""

    def __init__(self):
        self.port = servers.free_port()
        self.process = None
        #: Since it started.
        self.mails = 0

    def start(self):
        unprivileged = ["-u", "nobody"] if os.geteuid() == 0 else []
        command = ["smtp-sink", *unprivileged, "-c", "-m", "2000", f"127.0.0.1:{self.port}", "2000"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, pipesize=1 << 20
        )
        threading.Thread(target=self._follow, daemon=True).start()
        processes.wait_until(lambda: servers.is_up(self.port), 10, "smtp-sink does not answer")

    def stop(self):
        if self.process:
            processes.end(self.process)

    def _follow(self):
        """Its output is "sess=… quit=… mesg=…" and a CR, anew for each change; it must never wait for a reader."""
        rest = b""
        while octets := os.read(self.process.stdout.fileno(), 1 << 18):
            whole, separator, rest = (rest + octets).rpartition(b"\r")
            if separator:
                self.mails = int(whole.rpartition(b"mesg=")[2])
            # Not woken for each mail: that would take CPU time from what is measured.
            time.sleep(STEP)

    def wait_for(self, mails, seconds):
        try:
            processes.wait_until(lambda: self.mails >= mails, seconds, "mails are missing")
            return True
        except TimeoutError:
            return False


def smtp_source(port, cell, mails):
    """The command that sends so many mails."""
    keep = [] if cell.reconnect else ["-d"]
    amounts = ["-m", str(mails), "-s", str(min(cell.sessions, mails)), "-l", str(cell.size)]
    addresses = ["-M", "client.example.org", "-f", "sender@example.org", "-t", "user@example.com"]
    return ["smtp-source", *keep, *amounts, *addresses, f"127.0.0.1:{port}"]


@dataclass
class Source:
    """A started smtp-source."""

    command: list
    process: subprocess.Popen = field(init=False)
    cpu_seconds: float = 0.0
    status: int | None = None

    def __post_init__(self):
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )

    def has_ended(self):
        if self.status is None:
            pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
            if pid:
                self.status = self.process.returncode = os.waitstatus_to_exitcode(status)
                self.cpu_seconds = usage.ru_utime + usage.ru_stime
        return self.status is not None


def measure(cell, server, sink, mails, number, command=None):
    """Sends the mails through a running server, or straight to the sink when `server` is None; by smtp-source without a pause, or
    by another command."""
    roots, port, name = (server.roots(), server.port, server.name) if server else ((), sink.port, ALONE)
    target = sink.mails + mails
    cpu = processes.cpu_seconds(*roots)
    sink_cpu, busy = processes.cpu_seconds(sink.process.pid), processes.machine_busy_seconds()
    own = _own_cpu()
    begun = time.monotonic()
    source = Source(command or smtp_source(port, cell, mails))
    try:
        accepted, delivered = _arrival(source, sink, target, begun)
    except _Missing:
        processes.end(source.process)
        came = sink.mails - target + mails
        raise Failed(f"{name}, {cell.name}: {came} of {mails} mails came; {_words(source)}") from None
    except BaseException:
        processes.end(source.process)
        raise
    # The server may still have to write down that they are delivered; that is part of their cost.
    time.sleep(0.3)
    cpu = processes.cpu_seconds(*roots) - cpu
    sink_cpu = processes.cpu_seconds(sink.process.pid) - sink_cpu
    elapsed = time.monotonic() - begun
    others = processes.machine_busy_seconds() - busy - cpu - sink_cpu - source.cpu_seconds - (_own_cpu() - own)
    proportional, resident = processes.memory_mib(*roots)
    return Row(
        cell=cell.name,
        server=name,
        round=number,
        mails=mails,
        seconds=delivered - begun,
        accepted_seconds=accepted - begun,
        cpu_seconds=cpu,
        source_cpu_seconds=source.cpu_seconds,
        sink_cpu_seconds=sink_cpu,
        other_cores=max(0.0, others / elapsed),
        pss_mib=proportional,
        rss_mib=resident,
    )


class _Missing(Exception):
    pass


def _arrival(source, sink, target, begun):
    """When the source had its last reply, and when the last mail was at the sink."""
    accepted = delivered = None
    while not (accepted and delivered):
        now = time.monotonic()
        if not accepted and source.has_ended():
            accepted = now
        if not delivered and sink.mails >= target:
            delivered = now
        if now - begun > PATIENCE or (source.status or 0) != 0:
            raise _Missing
        time.sleep(STEP)
    return accepted, delivered


def _own_cpu():
    return sum(os.times()[:2])


def _words(source):
    source.process.stderr.flush()
    return source.process.stderr.read().decode(errors="replace").strip()[-300:] or f"exit code {source.status}"


def load(program, port, sessions, size=4096, mails=None, rate=None, more=()):
    """The command of the timing client. `rate`: mails a second; `more`: further options of it."""
    command = [program, f"127.0.0.1:{port}", "--sessions", str(sessions), "--size", str(size)]
    command += ["--mails", str(mails)] if mails else []
    command += ["--rate", str(rate)] if rate else []
    return [*command, *more]


class Load:
    """The client that times replies, see load.rs; takes what `load` takes. Without `mails` it goes on until it is stopped. It ends
    with its block, however that ends."""

    def __init__(self, *arguments, **options):
        self.process = subprocess.Popen(
            load(*arguments, **options), stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        processes.end(self.process)

    def stop(self, patience=PATIENCE):
        """Lets it finish the mails that it has begun, or all of `mails`; what it saw."""
        try:
            output, _ = self.process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            raise Failed(f"the client has not ended after {patience:.0f} s") from None
        finally:
            processes.end(self.process)
        return json.loads(output)
