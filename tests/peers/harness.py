"""What every peer needs: a free port, a process that is surely ended, waiting with an end, and certificates."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = ROOT / "target" / "peers"
LOOPBACK = "127.0.0.1"
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

# Seconds. Long, for a busy machine: only a failing test waits to the end.
PATIENCE = float(os.environ.get("PEERS_PATIENCE", "30"))
PAUSE = 0.02

_handed_out: set[int] = set()


def free_port() -> int:
    """A port of the loopback address that nobody has, and that is not handed out twice.

    Below those that the kernel takes for outgoing connections, so that none of them gets in between.
    """
    while True:
        port = random.randrange(12_000, 32_000)
        if port in _handed_out:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            _handed_out.add(port)
            return port


def wait_for(what: str, look: Callable[[], T | None], patience: float = PATIENCE) -> T:
    """The first answer of `look` that is true; an AssertionError that says what was awaited, when there is none."""
    end = time.monotonic() + patience
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < end, f"waited {patience:.0f} s for {what}"
        time.sleep(PAUSE)


def is_open(port: int) -> bool:
    """Whether a server has the port. It is not connected to: some servers take one connection too many amiss."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return True
    return False


def run(command: Sequence[object], stdin: bytes = b"", patience: float = PATIENCE) -> bytes:
    """Standard output of a command that must succeed; its standard error is in the failure."""
    done = subprocess.run(
        [str(word) for word in command],
        input=stdin,
        capture_output=True,
        timeout=patience,
        env={**os.environ, "PATH": PATH},
        check=False,
    )
    if done.returncode != 0:
        said = (done.stdout + done.stderr).decode("utf-8", "replace")
        raise AssertionError(f"{command[0]} ended with {done.returncode}:\n{said[-4000:]}")
    return done.stdout


@contextlib.contextmanager
def process(command: Sequence[object], log: Path, ports: Sequence[int]) -> Iterator[subprocess.Popen[bytes]]:
    """A server, from the moment it has its ports until it is ended, with all that it started, by the id of its group."""
    with log.open("ab") as out:
        child = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PATH": PATH},
        )
    try:

        def is_up() -> bool:
            assert child.poll() is None, f"{command[0]} ended at once:\n{log.read_text(errors='replace')[-4000:]}"
            return all(is_open(port) for port in ports)

        wait_for(f"{command[0]} to listen on {ports}", is_up)
        yield child
    finally:
        end(child)


def end(child: subprocess.Popen[bytes]) -> None:
    """First asked, then forced."""
    for name, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
        if name == signal.SIGTERM:
            child.send_signal(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, name)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(patience)
            break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


@dataclass(frozen=True)
class Authority:
    """A certificate authority of this run, and one certificate of it for loopback names, used by all servers."""

    authority: Path
    certificate: Path
    key: Path

    @classmethod
    def make(cls, directory: Path) -> Authority:
        ca_key, ca, key, request, certificate = (
            directory / name for name in ("ca.key", "ca.pem", "server.key", "server.csr", "server.pem")
        )
        new = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        run([*new, "-x509", "-days", "2", "-subj", "/CN=Peer tests", "-keyout", ca_key, "-out", ca])
        run([*new, "-subj", "/CN=localhost", "-keyout", key, "-out", request])
        names = directory / "names"
        names.write_text(f"subjectAltName=DNS:localhost,DNS:gateway.test,IP:{LOOPBACK}\n")
        sign = ["openssl", "x509", "-req", "-days", "2", "-CA", ca, "-CAkey", ca_key, "-CAcreateserial"]
        run([*sign, "-in", request, "-extfile", names, "-out", certificate])
        return cls(ca, certificate, key)
