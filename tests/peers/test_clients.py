"""Each client sends into the gateway in each way it can, and the mail lies in the Maildir as it was sent."""

from __future__ import annotations

import re
import smtplib
import ssl

import pytest

from clients import CLIENTS, SENDER, Client, Job
from conftest import World
from corpus import HEAD, simple
from gateway import LOGIN, Gateway, split
from harness import LOOPBACK, run
from network import Conversation

TEXT = simple(b"Some lines\r\nof text.\r\n")
DOTS = simple(b".\r\n..\r\n...\r\n.x\r\n\r\n.\r\n.\r\n")
EIGHT_BIT = simple("Grüße, приве́т\r\n".encode())

# Case → what is sent, the way (of postfix.CLIENTS), and the protocol that the gateway's Received must name (RFC 3848).
CASES: dict[str, tuple[bytes, str, str, dict[str, object]]] = {
    "plain": (TEXT, "plain", "E?SMTP", {}),
    "STARTTLS": (TEXT, "starttls", "ESMTPS", {"tls": "starttls"}),
    "implicit TLS": (TEXT, "implicit", "ESMTPSA", {"tls": "implicit"}),
    "AUTH PLAIN": (TEXT, "auth-plain", "ESMTPSA", {"tls": "starttls", "login": "PLAIN"}),
    "AUTH LOGIN": (TEXT, "auth-login", "ESMTPSA", {"tls": "starttls", "login": "LOGIN"}),
    "pipelining": (TEXT, "plain", "ESMTP", {}),
    "BDAT": (simple(b"A line of text\r\n" * 5000), "plain", "ESMTP", {}),
    "8BITMIME": (EIGHT_BIT, "plain", "ESMTP", {"eight_bit": True}),
    "SMTPUTF8": (EIGHT_BIT.replace(b"corpus", "Grüße".encode()), "plain", "UTF8SMTP", {"smtputf8": True, "eight_bit": True}),
    "several recipients": (TEXT, "plain", "ESMTP", {}),
    "10 MB": (simple((b"z" * 98 + b"\r\n") * 100_000), "plain", "E?SMTP", {}),
    "tiny": (b"A: b\r\n\r\nx\r\n", "plain", "E?SMTP", {}),
    "leading dots": (DOTS, "plain", "E?SMTP", {}),
    "empty body": (HEAD + b"\r\n", "plain", "E?SMTP", {}),
    "long header lines": (
        HEAD + b"X-Long: " + b"v" * 989 + b"\r\nX-Folded: " + b"\r\n ".join([b"w" * 900] * 30) + b"\r\n\r\nbody\r\n",
        "plain",
        "E?SMTP",
        {},
    ),
}

WHO_CAN = [
    pytest.param(kind, case, id=f"{kind.name}-{case}".replace(" ", "_"))
    for case in CASES
    for kind in CLIENTS
    if case not in kind.cannot
]


@pytest.mark.cell("clients")
@pytest.mark.parametrize(("client_kind", "case"), WHO_CAN)
def test_sends(case: str, client: Client, world: World, token: str) -> None:
    data, way, protocol, how = CASES[case]
    names = [f"{token}-{n}" for n in range(3)] if case == "several recipients" else [token]
    if case == "SMTPUTF8":
        names, how = [f"{token}-jürgen"], {"sender": "jürgen@sender.test", **how}
    recipients = tuple(f"{name}@{way}.box.test" for name in names)

    with world.tap.withholding(case == "pipelining"):
        client.send(Job(recipients, data, **how))  # type: ignore[arg-type]

    mails = [world.gateway.mails("box", recipient) for recipient in recipients]
    for each in mails:
        assert len(each) == 1
        arrived = split(each[0].data, client.above, 1).data if client.above else each[0].data
        assert arrived == data + client.below
        received = rb"\sby\sgateway\.test\swith\s%s\sid\s" % protocol.encode()
        assert re.search(received, each[0].trace), each[0].trace
    assert_wire(case, world.tap.about(recipients[-1]))


def assert_wire(case: str, conversations: list[Conversation]) -> None:
    """What the case is about was really done."""
    match case:
        case "BDAT":
            assert conversations[0].said.count(b"BDAT ") > 10
            assert b"DATA\r\n" not in conversations[0].said
        case "8BITMIME":
            assert b" BODY=8BITMIME" in conversations[0].said
        case "SMTPUTF8":
            assert b" SMTPUTF8" in conversations[0].said


def test_smtp_source_in_parallel(gateway: Gateway, token: str) -> None:
    """500 mails over 20 connections with 2 recipients each: all are there, once."""
    mails = 500
    command = ["smtp-source", "-s", "20", "-m", mails, "-r", "2", "-l", "4096", "-f", SENDER]
    run([str(word) for word in [*command, "-t", f"{token}@box.test", f"{LOOPBACK}:{gateway.ports['mx']}"]], patience=60)
    # It puts a number before the name of each recipient but the first.
    for recipient in (f"{token}@box.test", f"2{token}@box.test"):
        assert len(gateway.mails("box", recipient, mails)) == mails


def test_wrong_password_is_refused(world: World) -> None:
    context = ssl.create_default_context(cafile=world.gateway.authority.authority)
    with smtplib.SMTP_SSL(LOOPBACK, world.gateway.ports["submissions"], context=context, timeout=30) as client:
        with pytest.raises(smtplib.SMTPAuthenticationError) as refusal:
            client.login(LOGIN, "wrong")
        assert refusal.value.smtp_code == 535
