"""Small servers of our own, all on one event loop in a thread: taps between the gateway and a server, and what a real
server asks others about (a policy, a login)."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from harness import LOOPBACK, PATIENCE, free_port

T = TypeVar("T")
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

# What a gateway says to a smart host.
LOGIN = "gateway"
PASSWORD = "let-me-in"


class Background:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self) -> Background:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        async def cancel_all() -> None:
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        self.call(cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(PATIENCE)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE)

    def serve(self, handler: Handler) -> int:
        """The port at which each connection is given to the handler; a peer that hangs up ends it quietly."""

        async def quiet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                    await handler(reader, writer)
            finally:
                writer.close()

        port = free_port()
        self.call(asyncio.start_server(quiet, LOOPBACK, port))
        return port


@dataclass
class Conversation:
    """What went over one connection, in the pieces in which it came."""

    client: list[bytes] = field(default_factory=list)
    server: list[bytes] = field(default_factory=list)

    @property
    def said(self) -> bytes:
        return b"".join(self.client)


def is_pipelined(conversations: list[Conversation]) -> bool:
    """Whether MAIL and RCPT came in one piece (RFC 2920 §3.1)."""
    pieces = (piece for conversation in conversations for piece in conversation.client)
    return any(re.search(rb"MAIL FROM:[^\r]*\r\nRCPT TO:", piece) for piece in pieces)


def is_at_message(said: bytes) -> bool:
    return b"\r\nDATA\r\n" in said or b"\r\nBDAT " in said


class Tap:
    """Stands before a server, writes down what is said, and can cut a connection in the middle of a message."""

    def __init__(self, background: Background, server_port: int) -> None:
        self.server_port = server_port
        self.conversations: list[Conversation] = []
        # Octets of message text after which the next connection that has so many of them is cut; then it is None again.
        self.cut_after: int | None = None
        self.withhold = False
        self.port = background.serve(self._serve)

    def about(self, address: str) -> list[Conversation]:
        """The conversations, in the clear, in which this address was spoken of."""
        return [each for each in self.conversations if f"<{address}>".encode() in each.said]

    @contextlib.contextmanager
    def withholding(self, wanted: bool = True) -> Iterator[None]:
        """The reply to MAIL comes only after the client has said DATA or BDAT: a client that waits for it gets nowhere."""
        self.withhold = wanted
        try:
            yield
        finally:
            self.withhold = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = Conversation()
        self.conversations.append(conversation)
        server_reader, server_writer = await asyncio.open_connection(LOOPBACK, self.server_port)
        pump = asyncio.ensure_future(self._pump(reader, server_writer, conversation))
        answer = asyncio.ensure_future(self._answer(server_reader, writer, conversation))
        try:
            await asyncio.wait((pump, answer), return_when=asyncio.FIRST_COMPLETED)
            # The server's last words (a reply to QUIT) come after the client's.
            if pump.done() and not pump.exception() and pump.result():
                await asyncio.wait((answer,), timeout=PATIENCE)
        finally:
            for task in (pump, answer):
                task.cancel()
            await asyncio.gather(pump, answer, return_exceptions=True)
            server_writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, conversation: Conversation) -> bool:
        """False: the connection was cut."""
        while piece := await reader.read(4096):
            conversation.client.append(piece)
            if self.cut_after is not None and b"DATA\r\n" in conversation.said:
                surplus = len(conversation.said.partition(b"DATA\r\n")[2]) - self.cut_after
                if surplus >= 0:
                    self.cut_after = None
                    writer.write(piece[: len(piece) - surplus])
                    await writer.drain()
                    return False
            writer.write(piece)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
        return True

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, conversation: Conversation) -> None:
        while piece := await reader.read(65_536):
            conversation.server.append(piece)
            while self.withhold and b"MAIL FROM" in conversation.said and not is_at_message(conversation.said):
                await asyncio.sleep(0.01)
            writer.write(piece)
            await writer.drain()


def serve_policy(background: Background, gate: Path) -> int:
    """Postfix's policy protocol (SMTPD_POLICY_README): while the file is there, recipients `waits…` are put off."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.readuntil(b"\n\n"):
            closed = b"\nrecipient=waits" in request and gate.exists()
            writer.write(b"action=%s\n\n" % (b"451 4.7.1 come back later" if closed else b"DUNNO"))
            await writer.drain()

    return background.serve(handle)


def serve_login(background: Background) -> int:
    """Dovecot's authentication protocol, as far as Postfix speaks it: one user, PLAIN and LOGIN."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mechanisms = b"MECH\tPLAIN\tplaintext\nMECH\tLOGIN\tplaintext\n"
        writer.write(b"VERSION\t1\t1\n" + mechanisms + b"SPID\t1\nCUID\t1\nCOOKIE\t00000000000000000000000000000000\nDONE\n")
        answers: dict[bytes, list[str]] = {}
        while line := await reader.readline():
            verb, _, rest = line.rstrip(b"\n").partition(b"\t")
            if verb not in (b"AUTH", b"CONT"):
                continue
            request, _, parameters = rest.partition(b"\t")
            response = parameters.rpartition(b"resp=")[2] if verb == b"AUTH" else parameters
            has_response = verb == b"CONT" or b"resp=" in parameters
            said = answers.setdefault(request, [])
            if has_response:
                said += base64.b64decode(response).decode().split("\0")[-2:]
            if len(said) < 2:
                writer.write(b"CONT\t%s\t%s\n" % (request, base64.b64encode(b"Password:" if said else b"Username:")))
            elif answers.pop(request) == [LOGIN, PASSWORD]:
                writer.write(b"OK\t%s\tuser=%s\n" % (request, LOGIN.encode()))
            else:
                writer.write(b"FAIL\t%s\n" % request)
            await writer.drain()

    return background.serve(handle)
