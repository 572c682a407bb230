"""Clients that send into the gateway. Each sends one `Job`, in the way that the job asks for, and raises if it can't."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import smtplib
import ssl
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import aiosmtplib

from gateway import LOGIN, PASSWORD, Gateway
from harness import INSTALLED, LOOPBACK, PATIENCE, run
from postfix import Postfix

SENDER = "ann@sender.test"


@dataclass(frozen=True)
class Job:
    """One mail and how it is to be sent."""

    recipients: tuple[str, ...]
    data: bytes
    sender: str = SENDER
    tls: Literal["none", "starttls", "implicit"] = "none"
    login: Literal["", "PLAIN", "LOGIN"] = ""
    eight_bit: bool = False
    smtputf8: bool = False

    @property
    def options(self) -> list[str]:
        """Of MAIL."""
        asked = ((self.eight_bit, "BODY=8BITMIME"), (self.smtputf8, "SMTPUTF8"))
        return [word for wanted, word in asked if wanted]


@dataclass
class Client(ABC):
    gateway: Gateway
    # Only one client of them all is a server itself.
    postfix: Postfix

    name: ClassVar[str] = ""
    # What it can't do, and why that is not our matter.
    cannot: ClassVar[dict[str, str]] = {}
    # What it puts on top (names of fields) and below what it was given.
    above: ClassVar[bytes] = b""
    below: ClassVar[bytes] = b""

    @abstractmethod
    def send(self, job: Job) -> None: ...

    def port(self, job: Job) -> int:
        if job.tls == "implicit":
            return self.gateway.ports["submissions"]
        listener = {"none": "plain", "starttls": "submission" if job.login else "mx"}[job.tls]
        return self.gateway.ports[listener]

    @property
    def authority(self) -> Path:
        return self.gateway.authority.authority

    def needs_login(self, job: Job) -> bool:
        """Who comes by implicit TLS comes to a submission port."""
        return bool(job.login) or job.tls == "implicit"


NO_CHUNKING = "has no BDAT"
NO_PIPELINING = "waits for each reply"


class Swaks(Client):
    name = "swaks"
    cannot = {
        "8BITMIME": "sends no BODY parameter",
        "SMTPUTF8": "sends no SMTPUTF8 parameter",
        "BDAT": NO_CHUNKING,
    }

    def send(self, job: Job) -> None:
        command = ["swaks", "--server", LOOPBACK, "--port", str(self.port(job)), "--helo", "swaks.test", "--timeout", "30"]
        command += ["--from", job.sender, "--to", ",".join(job.recipients), "--data", "-", "--no-data-fixup", "--pipeline"]
        if job.tls != "none":
            command += ["--tls-on-connect"] if job.tls == "implicit" else ["--tls"]
            command += ["--tls-verify", "--tls-ca-path", str(self.authority)]
        if self.needs_login(job):
            command += ["--auth", job.login or "PLAIN", "--auth-user", LOGIN, "--auth-password", PASSWORD]
        # As it stands on the wire, for it changes nothing.
        stuffed = b"".join(b"." + line if line.startswith(b".") else line for line in job.data.splitlines(keepends=True))
        run([*command, "--silent", "2"], stuffed + b".")


class Smtplib(Client):
    name = "smtplib"
    cannot = {"pipelining": NO_PIPELINING, "BDAT": NO_CHUNKING + " (its subclass beside it has)"}
    kind: ClassVar[type[smtplib.SMTP]] = smtplib.SMTP

    def send(self, job: Job) -> None:
        with self.connection(job) as client:
            if self.needs_login(job):
                client.ehlo()
                client.user, client.password = LOGIN, PASSWORD
                mechanism = job.login or "PLAIN"
                client.auth(mechanism, {"PLAIN": client.auth_plain, "LOGIN": client.auth_login}[mechanism])
            client.sendmail(job.sender, list(job.recipients), job.data, job.options)

    @contextlib.contextmanager
    def connection(self, job: Job) -> Iterator[smtplib.SMTP]:
        context = ssl.create_default_context(cafile=self.authority)
        if job.tls == "implicit":
            with smtplib.SMTP_SSL(LOOPBACK, self.port(job), timeout=PATIENCE, context=context) as client:
                yield client
            return
        with self.kind(LOOPBACK, self.port(job), "smtplib.test", timeout=PATIENCE) as client:
            if job.tls == "starttls":
                client.starttls(context=context)
            yield client


class Chunking(smtplib.SMTP):
    """smtplib with RFC 3030: the message in chunks of odd sizes, sent with MAIL and RCPT in one go (RFC 2920 §3.1)."""

    CHUNK = 4099

    def sendmail(
        self,
        from_addr: str,
        to_addrs: str | Sequence[str],
        msg: Any,
        mail_options: Sequence[str] = (),
        rcpt_options: Sequence[str] = (),
    ) -> dict[str, tuple[int, bytes]]:
        """`msg`: bytes; `to_addrs`: a list."""
        assert not rcpt_options
        self.ehlo_or_helo_if_needed()
        assert self.has_extn("chunking")
        assert self.has_extn("pipelining")
        parameters = "".join(f" {option}" for option in mail_options)
        commands = [f"MAIL FROM:<{from_addr}>{parameters}\r\n"] + [f"RCPT TO:<{to}>\r\n" for to in to_addrs]
        chunks = [msg[at : at + self.CHUNK] for at in range(0, len(msg), self.CHUNK)]
        pieces = [command.encode() for command in commands]
        pieces += [b"BDAT %d\r\n" % len(chunk) + chunk for chunk in chunks] + [b"BDAT 0 LAST\r\n"]
        self.send(b"".join(pieces))
        for piece in pieces:
            code, text = self.getreply()
            assert code == 250, (piece[:100], code, text)
        return {}


class ChunkingSmtplib(Smtplib):
    name = "smtplib + BDAT"
    cannot = {"implicit TLS": "as smtplib without BDAT"}
    kind = Chunking


class Aiosmtplib(Client):
    name = "aiosmtplib"
    cannot = {"pipelining": NO_PIPELINING, "BDAT": NO_CHUNKING}

    def send(self, job: Job) -> None:
        asyncio.run(self._send(job))

    async def _send(self, job: Job) -> None:
        context = ssl.create_default_context(cafile=self.authority)
        client = aiosmtplib.SMTP(
            hostname=LOOPBACK,
            port=self.port(job),
            use_tls=job.tls == "implicit",
            start_tls=job.tls == "starttls",
            tls_context=context,
            timeout=PATIENCE,
        )
        async with client:
            if self.needs_login(job):
                await client.ehlo()
                log_in = client.auth_login if job.login == "LOGIN" else client.auth_plain
                await log_in(LOGIN, PASSWORD)
            if job.smtputf8:
                await self._send_utf8(client, job)
            else:
                await client.sendmail(job.sender, job.recipients, job.data, mail_options=job.options)

    @staticmethod
    async def _send_utf8(client: aiosmtplib.SMTP, job: Job) -> None:
        """Its `sendmail` takes ASCII addresses only."""
        await client.mail(job.sender, options=job.options, encoding="utf-8")
        for recipient in job.recipients:
            await client.rcpt(recipient, encoding="utf-8")
        await client.data(job.data)


class Msmtp(Client):
    name = "msmtp"
    cannot = {"8BITMIME": "sends no BODY parameter", "SMTPUTF8": "sends no SMTPUTF8 parameter", "BDAT": NO_CHUNKING}

    def send(self, job: Job) -> None:
        command = ["msmtp", "--file=/dev/null", f"--host={LOOPBACK}", f"--port={self.port(job)}", f"--from={job.sender}"]
        command += ["--domain=msmtp.test", "--timeout=30"]
        command += ["--set-from-header=off", "--set-date-header=off", "--set-msgid-header=off", "--remove-bcc-headers=off"]
        if job.tls != "none":
            command += ["--tls=on", f"--tls-trust-file={self.authority}", "--tls-certcheck=on"]
            command += [f"--tls-starttls={'on' if job.tls == 'starttls' else 'off'}"]
        if self.needs_login(job):
            command += [f"--auth={(job.login or 'PLAIN').lower()}", f"--user={LOGIN}", f"--passwordeval=printf %s '{PASSWORD}'"]
        # It wants lines as they are on this machine.
        run([*command, "--", *job.recipients], job.data.replace(b"\r\n", b"\n"))


class Nodemailer(Client):
    name = "nodemailer"
    cannot = {"pipelining": NO_PIPELINING, "BDAT": NO_CHUNKING}

    def send(self, job: Job) -> None:
        wanted = {
            "port": self.port(job),
            "secure": job.tls == "implicit",
            "requireTLS": job.tls == "starttls",
            "ca": str(self.authority),
            "from": job.sender,
            "to": list(job.recipients),
            "eightBit": job.eight_bit,
            "message": base64.b64encode(job.data).decode(),
        }
        if self.needs_login(job):
            wanted |= {"user": LOGIN, "password": PASSWORD, "method": job.login or "PLAIN"}
        command = ["node", str(Path(__file__).with_name("send.mjs"))]
        environment = {**os.environ, "PEERS_NODE": str(INSTALLED / "node")}
        done = subprocess.run(
            command, input=json.dumps(wanted).encode(), capture_output=True, timeout=PATIENCE, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr.decode()


class SmtpSource(Client):
    name = "smtp-source"
    cannot = {
        "STARTTLS": "speaks no TLS",
        "implicit TLS": "speaks no TLS",
        "AUTH PLAIN": "has no AUTH",
        "AUTH LOGIN": "has no AUTH",
        "pipelining": NO_PIPELINING,
        "BDAT": NO_CHUNKING,
        "8BITMIME": "sends no BODY parameter",
        "SMTPUTF8": "sends no SMTPUTF8 parameter",
        "several recipients": "makes up their names (see test_smtp_source_in_parallel)",
    }
    # Of a file it sends one line end too many.
    below = b"\r\n"

    def send(self, job: Job) -> None:
        (recipient,) = job.recipients
        with tempfile.NamedTemporaryFile() as file:
            file.write(job.data.replace(b"\r\n", b"\n"))
            file.flush()
            run(["smtp-source", "-F", file.name, "-f", job.sender, "-t", recipient, f"{LOOPBACK}:{self.port(job)}"])


class PostfixClient(Client):
    name = "Postfix"
    cannot = {"BDAT": NO_CHUNKING + " as a client"}
    above = b"Received"

    def send(self, job: Job) -> None:
        self.postfix.relay(job.sender, list(job.recipients), job.data, job.options)


CLIENTS: tuple[type[Client], ...] = (
    Swaks,
    Smtplib,
    ChunkingSmtplib,
    Aiosmtplib,
    Msmtp,
    Nodemailer,
    SmtpSource,
    PostfixClient,
)
