"""Each server takes mail from the gateway in each way it can; and what becomes of mail that it does not take."""

from __future__ import annotations

import email
import email.policy
import re
import smtplib
from email.message import EmailMessage, Message
from typing import Any

import pytest

from conftest import SERVERS
from corpus import HEAD, simple
from gateway import Gateway
from harness import LOOPBACK, PATIENCE, wait_for
from network import is_pipelined
from servers import DOORS, Server, Sink

TEXT = simple(b"Some lines\r\nof text.\r\n")
EIGHT_BIT = simple("Grüße, приве́т\r\n".encode())
EIGHT_BIT_HEADER = EIGHT_BIT.replace(b"Subject: corpus", "Subject: Grüße".encode())

# Case → a way of servers.WAYS.
TLS_CASES = {
    "no TLS": "plain",
    "opportunistic TLS": "opportunistic",
    "required TLS": "required",
    "verified TLS": "verified",
    "implicit TLS": "implicit",
    "AUTH": "login",
}

OUTCOMES = ("deferred", "delivered", "failed")

each_server = pytest.mark.parametrize("kind", SERVERS, ids=lambda kind: kind.name)


def each_able(case: str) -> pytest.MarkDecorator:
    able = [kind for kind in SERVERS if case not in kind.cannot]
    return pytest.mark.parametrize("kind", able, ids=lambda kind: kind.name)


def submit(gateway: Gateway, sender: str, recipients: list[str], data: bytes, options: tuple[str, ...] = ()) -> None:
    with smtplib.SMTP(LOOPBACK, gateway.ports["mx"], "client.test", timeout=PATIENCE) as client:
        refused = client.sendmail(sender, recipients, data, options)
    assert not refused


def wait_until_done(gateway: Gateway, recipient: str) -> None:
    """The gateway has nothing more to do for this recipient."""
    wait_for(f"the end of mail to {recipient}", lambda: outcomes(gateway, recipient)[-1:] in (["delivered"], ["failed"]))


def outcomes(gateway: Gateway, recipient: str) -> list[object]:
    """Of all attempts, in their order: deferred, delivered, failed."""
    return [event["event"] for event in gateway.events(to=recipient) if event["event"] in OUTCOMES]


def report(gateway: Gateway, sender: str) -> tuple[EmailMessage, list[Message]]:
    """The DSN to a sender, and its groups of fields for the recipients (RFC 3464 §2.1)."""
    (mail,) = gateway.mails("returns", sender)
    assert mail.trace.startswith(b"Return-Path: <>\r\n"), mail.trace
    dsn = email.message_from_bytes(mail.data, policy=email.policy.default)
    assert isinstance(dsn, EmailMessage)
    assert not dsn.defects
    assert dsn.get_content_type() == "multipart/report"
    assert dsn.get_param("report-type") == "delivery-status"
    text, status, _original = dsn.iter_parts()
    assert text.get_content_type() == "text/plain"
    of_message, *of_recipients = groups(status)
    assert of_message["Reporting-MTA"] == "dns; gateway.test"
    return dsn, of_recipients


def groups(status: Message) -> list[Message]:
    """Of fields: one for the message, one for each recipient."""
    parts: Any = status.get_payload()
    if status.get_content_type() == "message/delivery-status":
        return list(parts)
    # RFC 6533 §3, where an address needs it; the email package takes it for a mail, the first group for its header.
    assert status.get_content_type() == "message/global-delivery-status"
    rest = parts[0].get_payload().strip().split("\n\n")
    return [parts[0], *(email.message_from_string(group) for group in rest)]


def assert_failed(fields: Message, recipient: str, status: str) -> None:
    assert re.fullmatch(rf"(rfc822|utf-8); ?{re.escape(recipient)}", fields["Final-Recipient"]), fields
    assert fields["Action"] == "failed"
    assert re.fullmatch(status, fields["Status"]), fields


@pytest.mark.cell("servers")
@pytest.mark.parametrize(
    ("kind", "case"),
    [
        pytest.param(kind, case, id=f"{kind.name}-{case}".replace(" ", "_"))
        for case, way in TLS_CASES.items()
        for kind in SERVERS
        if case not in kind.cannot and (kind.tls or way != "required")
    ],
)
def test_takes(case: str, server: Server, gateway: Gateway, token: str) -> None:
    """The mail, unchanged, with the protection that the policy asks for and the server has: an opportunistic one does
    without TLS where the server has none, or where its handshake fails."""
    way = TLS_CASES[case]
    recipient = f"{token}@{server.domain(way)}"
    submit(gateway, "ann@sender.test", [recipient], TEXT)
    (mail,) = server.mails(recipient)
    assert mail.data == TEXT
    assert server.used_tls(mail) == (server.tls and way != "plain")
    if way == "login":
        assert server.logged_in(mail)


@pytest.mark.cell("servers", "required TLS")
@pytest.mark.parametrize("kind", [kind for kind in SERVERS if not kind.tls], ids=lambda kind: kind.name)
def test_waits_where_required_tls_is_not_to_be_had(server: Server, gateway: Gateway, token: str) -> None:
    recipient = f"{token}@{server.domain('required')}"
    submit(gateway, "ann@sender.test", [recipient], TEXT)
    wait_for("an attempt", lambda: outcomes(gateway, recipient)[:1] == ["deferred"])
    assert not server.taps["required"].about(recipient)
    assert not server.has(recipient)


@each_server
@pytest.mark.cell("servers", "extensions as offered")
def test_uses_what_is_offered(server: Server, gateway: Gateway, token: str) -> None:
    recipients = [f"{token}-{n}@{server.domain()}" for n in range(3)]
    submit(gateway, "ann@sender.test", recipients, EIGHT_BIT, ("BODY=8BITMIME",))
    for recipient in recipients:
        assert [mail.data for mail in server.mails(recipient)] == [EIGHT_BIT]
    (conversation,) = server.taps["plain"].about(recipients[0])
    replies = b"".join(conversation.server)
    known = ("PIPELINING", "8BITMIME", "SMTPUTF8", "STARTTLS", "DSN", "CHUNKING")
    assert server.offers == {word for word in known if re.search(rb"(?m)^250[- ]%s\b" % word.encode(), replies)}
    assert is_pipelined([conversation]) == ("PIPELINING" in server.offers)
    assert re.search(rb"MAIL FROM:<ann@sender\.test>[^\r]* BODY=8BITMIME", conversation.said)
    # One transaction for all three, and never BDAT: the gateway sends with DATA.
    assert conversation.said.count(b"DATA\r\n") == 1


@each_server
@pytest.mark.cell("servers", "SMTPUTF8")
def test_internationalized_mail(server: Server, gateway: Gateway, token: str) -> None:
    """Delivered where SMTPUTF8 is offered, and returned where it is not (RFC 6531 §3.2)."""
    sender, recipient = f"{token}@returns.test", f"{token}-jürgen@{server.domain()}"
    submit(gateway, sender, [recipient], EIGHT_BIT_HEADER, ("SMTPUTF8", "BODY=8BITMIME"))
    if "SMTPUTF8" in server.offers:
        (mail,) = server.mails(recipient)
        assert mail.data == EIGHT_BIT_HEADER
    else:
        _, (fields,) = report(gateway, sender)
        assert fields["Status"] == "5.6.7"
        assert not server.has(recipient)


@each_able("4xx, then taken")
@pytest.mark.cell("servers", "4xx, then taken")
def test_deferred_mail_is_delivered_once(server: Server, gateway: Gateway, token: str) -> None:
    way = "defers" if isinstance(server, Sink) else "plain"
    recipient = f"waits-{token}@{server.domain(way)}"
    with server.place.gate_closed():
        submit(gateway, "ann@sender.test", [recipient], TEXT)
        wait_for("an attempt", lambda: outcomes(gateway, recipient)[:1] == ["deferred"])
        assert not server.has(recipient)
    server.taps[way].server_port = server.port
    assert [mail.data for mail in server.mails(recipient)] == [TEXT]
    wait_until_done(gateway, recipient)
    assert outcomes(gateway, recipient).count("delivered") == 1
    assert server.has(recipient) == 1


@each_server
@pytest.mark.cell("servers", "5xx: DSN")
def test_refused_mail_is_returned(server: Server, gateway: Gateway, token: str) -> None:
    way = "refuses" if isinstance(server, Sink) else "plain"
    sender, recipient = f"{token}@returns.test", f"nobody-{token}@{server.domain(way)}"
    submit(gateway, sender, [recipient], TEXT)
    dsn, (fields,) = report(gateway, sender)
    assert_failed(fields, recipient, server.unknown)
    assert re.match(r"dns; ?\S", fields["Remote-MTA"]), fields
    assert re.match(r"smtp; ?5\d\d", fields["Diagnostic-Code"]), fields
    original = list(dsn.iter_parts())[2]
    assert b"Message-ID: <corpus@sender.test>" in original.as_bytes()
    assert outcomes(gateway, recipient) == ["failed"]


@each_able("one good, one refused")
@pytest.mark.cell("servers", "one good, one refused")
def test_each_recipient_has_an_outcome(server: Server, gateway: Gateway, token: str) -> None:
    sender = f"{token}@returns.test"
    good, refused = f"{token}@{server.domain()}", f"nobody-{token}@{server.domain()}"
    submit(gateway, sender, [refused, good], TEXT)
    assert [mail.data for mail in server.mails(good)] == [TEXT]
    _, (fields,) = report(gateway, sender)
    assert_failed(fields, refused, server.unknown)
    assert server.has(good) == 1


@each_server
@pytest.mark.cell("servers", "cut in DATA")
def test_cut_in_the_message_is_delivered_once(server: Server, gateway: Gateway, token: str) -> None:
    recipient, data = f"{token}@{server.domain()}", HEAD + b"\r\n" + b"A line of text\r\n" * 20_000
    tap = server.taps["plain"]
    tap.cut_after = len(data) // 2
    submit(gateway, "ann@sender.test", [recipient], data)
    assert [mail.data for mail in server.mails(recipient)] == [data]
    wait_until_done(gateway, recipient)
    assert len(tap.about(recipient)) == 2, "the connection was not cut"
    assert server.has(recipient) == 1


@pytest.mark.cell("servers", "HELO, 7 bit, no PIPELINING")
@pytest.mark.parametrize("kind", [Sink], ids=lambda kind: kind.name)
@pytest.mark.parametrize("door", ["helo-only", "seven-bit", "no-pipelining"])
def test_servers_that_offer_little(door: str, server: Server, gateway: Gateway, token: str) -> None:
    """ASCII goes through; what needs 8BITMIME is returned, not damaged (RFC 6152 §3)."""
    assert door in DOORS
    ascii, eight_bit = (f"{token}-{n}@{server.domain(door)}" for n in (7, 8))
    sender = f"{token}@returns.test"
    submit(gateway, sender, [ascii], TEXT)
    assert [mail.data for mail in server.mails(ascii)] == [TEXT]
    submit(gateway, sender, [eight_bit], EIGHT_BIT)
    if door == "no-pipelining":
        assert [mail.data for mail in server.mails(eight_bit)] == [EIGHT_BIT]
        assert not is_pipelined(server.taps[door].conversations)
    else:
        _, (fields,) = report(gateway, sender)
        assert_failed(fields, eight_bit, r"5\.6\.3")
        assert not server.has(eight_bit)
