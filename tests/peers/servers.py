"""Servers that receive from the gateway. What is common to all, and the two that need no privileges."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

from gateway import Mail, is_ours, split
from harness import LOOPBACK, Authority, free_port, process, wait_for
from network import LOGIN, PASSWORD, Background, Tap

# How the gateway goes there: TLS policy of the destination, and whether that is a smart host with a login.
WAYS = {
    "plain": "never",
    "opportunistic": "opportunistic",
    "required": "required",
    "verified": "verified",
    "implicit": "implicit",
    "login": "verified",
}


@dataclass
class Place:
    """What a server is given to live with."""

    directory: Path
    authority: Authority
    background: Background

    @property
    def gate(self) -> Path:
        """While this file exists, the server answers 4xx to recipients `waits…`."""
        return self.directory / "closed"

    @contextlib.contextmanager
    def gate_closed(self) -> Iterator[None]:
        self.gate.touch()
        try:
            yield
        finally:
            self.gate.unlink()


@dataclass
class Server(ABC):
    """A kind of server. It takes mail for every address, except that `nobody…` is unknown, for good."""

    place: Place
    port: int = field(default_factory=free_port)
    implicit_port: int = field(default_factory=free_port)
    taps: dict[str, Tap] = field(default_factory=dict)
    # Of servers that keep in memory what arrived.
    kept: list[tuple[str, Mail]] = field(default_factory=list)

    name: ClassVar[str] = ""
    # Which of WAYS it can go.
    ways: ClassVar[tuple[str, ...]] = tuple(WAYS)
    # Of the extensions that the gateway can use.
    offers: ClassVar[frozenset[str]] = frozenset()
    # Cases that it has no part in, and why.
    cannot: ClassVar[dict[str, str]] = {"HELO, 7 bit, no PIPELINING": "offers more than that"}
    # Whether a TLS handshake with it can succeed.
    tls: ClassVar[bool] = True
    # How it refuses `nobody…`: the enhanced status (RFC 3463), a regular expression.
    unknown: ClassVar[str] = r"5\.1\.1"

    @contextlib.contextmanager
    def run(self) -> Iterator[None]:
        """The server, and before it a tap for each way."""
        with self.serve():
            for way in self.ways:
                self.taps[way] = Tap(self.place.background, self.port_of(way))
            yield

    def port_of(self, way: str) -> int:
        return self.implicit_port if way == "implicit" else self.port

    @abstractmethod
    def serve(self) -> contextlib.AbstractContextManager[None]: ...

    @abstractmethod
    def arrived(self) -> Iterator[tuple[str, Mail]]:
        """Every recipient's mail; its trace is what the server put on top of the gateway's Received field."""

    def domain(self, way: str = "plain") -> str:
        return f"{way}.{self.name}.test"

    def peculiar(self, data: bytes) -> str:
        """What this server, by itself, does to a message with such content, whoever it comes from; empty: nothing."""
        del data
        return ""

    def mails(self, recipient: str, count: int = 1) -> list[Mail]:
        """The mails that came for a recipient, at least so many."""

        def look() -> list[Mail] | None:
            found = [mail for address, mail in self.arrived() if address == recipient]
            return found if len(found) >= count else None

        return wait_for(f"{count} mails to {recipient} at {self.name}", look)

    def has(self, recipient: str) -> int:
        return sum(address == recipient for address, _ in self.arrived())

    def used_tls(self, mail: Mail) -> bool:
        """By its own trace field (RFC 3848)."""
        return re.search(rb"with (?:E|UTF8)SMTPSA?\b", mail.trace, re.IGNORECASE) is not None

    def logged_in(self, mail: Mail) -> bool:
        return re.search(rb"with (?:E|UTF8)SMTPSA\b", mail.trace, re.IGNORECASE) is not None

    def tenants(self) -> str:
        """The gateway's config for all ways to this server."""
        secret = self.place.directory / "secret"
        secret.write_text(PASSWORD + "\n")
        secret.chmod(0o600)
        return "".join(self._tenant(way, tap.port, secret) for way, tap in self.taps.items())

    def _tenant(self, way: str, port: int, secret: Path) -> str:
        name, tls = f"{self.name}-{way}", WAYS.get(way, "never")
        if way == "login":
            smart_host = f'[[smart_host]]\nname = "{name}"\nhost = "{LOOPBACK}"\nport = {port}\n'
            smart_host += f'tls = "{tls}"\nuser = "{LOGIN}"\npassword_file = "{secret}"\n'
            destination = f'{{ smart_host = "{name}" }}'
        else:
            smart_host = ""
            destination = f'{{ host = "{LOOPBACK}", port = {port}, tls = "{tls}" }}'
        return f'{smart_host}[[tenant]]\nname = "{name}"\ndomains = ["{self.domain(way)}"]\ndestination = {destination}\n'


def ours(raw: bytes, above: bytes = b"") -> Mail:
    """A mail at its far end, without what the server put on top (`above`) and without the gateway's Received."""
    mail = Mail(raw[len(above) :], above)
    own = split(mail.data, b"Received", 1)
    assert is_ours(own.trace), raw[:1000]
    return Mail(own.data, above)


# smtp-sink does for everybody what it is told at its start, so it has a door for each behaviour.
DOORS = {
    "defers": ("-r", "RCPT"),
    "refuses": ("-f", "RCPT"),
    "helo-only": ("-e",),
    "seven-bit": ("-8",),
    "no-pipelining": ("-p",),
}


class Sink(Server):
    """Postfix's smtp-sink."""

    name = "smtp-sink"
    ways = ("plain", "opportunistic", "required", *DOORS)
    offers = frozenset({"PIPELINING", "8BITMIME", "DSN"})
    tls = False
    unknown = r"5\.\d+\.\d+"
    cannot = {
        "verified TLS": "speaks no TLS",
        "implicit TLS": "speaks no TLS",
        "AUTH": "its AUTH is without TLS, where the gateway gives no password away",
        "one good, one refused": "refuses everybody or nobody",
    }

    @contextlib.contextmanager
    def serve(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._open("main", self.port))
            self.doors = {}
            for name, options in DOORS.items():
                self.doors[name] = free_port()
                stack.enter_context(self._open(name, self.doors[name], *options))
            yield

    def _open(self, name: str, port: int, *options: str) -> contextlib.AbstractContextManager[object]:
        # Two of them would make up the same names of files.
        dump = self.place.directory / "dump" / name
        dump.mkdir(parents=True)
        command = ["smtp-sink", "-u", "root", "-d", f"{dump}/mail.", *options, f"{LOOPBACK}:{port}", "100"]
        return process(command, self.place.directory / "sink.log", [port])

    def port_of(self, way: str) -> int:
        return self.doors.get(way, self.port)

    def arrived(self) -> Iterator[tuple[str, Mail]]:
        for file in sorted((self.place.directory / "dump").glob("*/*")):
            # What was cut off goes away again.
            with contextlib.suppress(FileNotFoundError):
                raw = file.read_bytes()
                # It writes an empty line below each mail that came to its end.
                if raw.endswith(b"\n\n"):
                    yield from self._read(raw[:-1].replace(b"\n", b"\r\n"))

    @staticmethod
    def _read(raw: bytes) -> Iterator[tuple[str, Mail]]:
        notes = re.match(rb"(?:X-[A-Z][A-Za-z]+-[A-Z][a-z]+: [^\r]*\r\n)+", raw)
        if notes is None:
            return
        own = split(raw[notes.end() :], b"Received", 1)
        for address in re.findall(rb"X-Rcpt-Args: <([^>]*)>", notes.group()):
            yield address.decode(), ours(raw, notes.group() + own.trace)


class Aiosmtpd(Server):
    """aiosmtpd, in this process. It keeps the octets as they came."""

    name = "aiosmtpd"
    offers = frozenset({"8BITMIME", "SMTPUTF8", "STARTTLS"})

    @contextlib.contextmanager
    def serve(self) -> Iterator[None]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.place.authority.certificate, self.place.authority.key)
        new = partial(SMTP, self, hostname="aiosmtpd.test", enable_SMTPUTF8=True, data_size_limit=60_000_000)
        new = partial(new, loop=self.place.background.loop)
        offering = partial(new, tls_context=context, authenticator=self.authenticate)
        servers = [self._open(self.port, None, offering), self._open(self.implicit_port, context, new)]
        yield
        for server in servers:
            self.place.background.loop.call_soon_threadsafe(server.close)

    def _open(self, port: int, tls: ssl.SSLContext | None, new: partial[SMTP]) -> asyncio.Server:
        loop = self.place.background.loop
        return self.place.background.call(loop.create_server(new, LOOPBACK, port, ssl=tls))

    @staticmethod
    def authenticate(_server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: object) -> AuthResult:
        good = (getattr(data, "login", b""), getattr(data, "password", b"")) == (LOGIN.encode(), PASSWORD.encode())
        return AuthResult(success=good)

    async def handle_RCPT(
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address.startswith("nobody"):
            return "550 5.1.1 no such user"
        if address.startswith("waits") and self.place.gate.exists():
            return "451 4.7.1 come back later"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        # It knows nothing of TLS that was there before it.
        transport = server.transport
        implicit = transport is not None and transport.get_extra_info("ssl_object") is not None
        facts = b"X-Facts: with ESMTP%s%s\r\n" % (
            b"S" if session.ssl or implicit else b"",
            b"A" if session.authenticated else b"",
        )
        raw = facts + (envelope.original_content or b"")
        self.kept += [(address, ours(raw, facts)) for address in envelope.rcpt_tos]
        return "250 2.0.0 kept"

    def arrived(self) -> Iterator[tuple[str, Mail]]:
        return iter(list(self.kept))
