"""A relay changes nothing: every message of the corpus is at its far end, octet for octet, what was sent.

But for the trace fields that were put on top (see gateway.split_maildir and each server's `arrived`), and for what a
server or client does by itself, which its `peculiar` names.
"""

from __future__ import annotations

import itertools
import re
import smtplib
import ssl

import pytest

import corpus
from clients import Chunking
from conftest import SERVERS, World
from gateway import LOGIN, PASSWORD, Gateway
from harness import LOOPBACK, PATIENCE
from servers import Server

MESSAGES = corpus.made() | corpus.of_cpython()


def send_all(port: int, domain: str, token: str, kind: type[smtplib.SMTP] = smtplib.SMTP) -> dict[str, str]:
    """Sends the corpus, each message to a recipient of its own, over one connection. Message → recipient."""
    recipients = {name: f"{token}-{number}@{domain}" for number, name in enumerate(MESSAGES)}
    with kind(LOOPBACK, port, "client.test", timeout=PATIENCE) as client:
        for name, data in MESSAGES.items():
            refused = client.sendmail("ann@sender.test", [recipients[name]], data, ["BODY=8BITMIME"])
            assert not refused, (name, refused)
    return recipients


def difference(sent: bytes, came: bytes) -> str:
    """Where they part, and how it goes on."""
    at = next((n for n, (a, b) in enumerate(zip(sent, came, strict=False)) if a != b), min(len(sent), len(came)))
    begin = max(0, at - 30)
    return f"at octet {at} of {len(sent)} ({len(came)} came): sent {sent[begin : at + 50]!r}, came {came[begin : at + 50]!r}"


def test_corpus_is_worth_its_name() -> None:
    assert len(corpus.made()) >= 60
    for name, data in MESSAGES.items():
        assert data.endswith(b"\r\n"), name
        assert b"\0" not in data, name
        assert b"\n" not in data.replace(b"\r\n", b""), name


@pytest.mark.parametrize("kind", [smtplib.SMTP, Chunking], ids=["DATA", "BDAT"])
def test_from_client_to_maildir(kind: type[smtplib.SMTP], gateway: Gateway, token: str) -> None:
    recipients = send_all(gateway.ports["mx"], "box.test", token, kind)
    differ = {}
    for name, recipient in recipients.items():
        (mail,) = gateway.mails("box", recipient)
        if mail.data != MESSAGES[name]:
            differ[name] = difference(MESSAGES[name], mail.data)
    assert not differ, report(differ)


def test_text_without_a_last_line_end(gateway: Gateway, world: World, token: str) -> None:
    """BDAT can end within a line. It stays so in a Maildir; DATA ends the line (RFC 5321 §4.1.1.4), and no more."""
    data = corpus.simple(b"the last line has no end")
    server = world.servers["aiosmtpd"]
    here, there = f"{token}@box.test", f"{token}@{server.domain()}"
    for recipient in (here, there):
        with Chunking(LOOPBACK, gateway.ports["mx"], "client.test", timeout=PATIENCE) as client:
            client.sendmail("ann@sender.test", [recipient], data)
    assert [mail.data for mail in gateway.mails("box", here)] == [data]
    assert [mail.data for mail in server.mails(there)] == [data + b"\r\n"]


def test_submission_adds_only_what_is_missing(gateway: Gateway, token: str) -> None:
    """Date and Message-ID (RFC 6409 §8.1, §8.3), below the fields that are there; other listeners add neither."""
    data = b"From: ann@sender.test\r\nSubject: bare\r\n\r\nbody\r\n"
    context = ssl.create_default_context(cafile=gateway.authority.authority)
    submitted, relayed = f"{token}-s@box.test", f"{token}-r@box.test"
    with smtplib.SMTP_SSL(LOOPBACK, gateway.ports["submissions"], timeout=PATIENCE, context=context) as client:
        client.login(LOGIN, PASSWORD)
        client.sendmail("ann@sender.test", [submitted], data)
    with smtplib.SMTP(LOOPBACK, gateway.ports["mx"], timeout=PATIENCE) as client:
        client.sendmail("ann@sender.test", [relayed], data)
    (mail,), (plain,) = gateway.mails("box", submitted), gateway.mails("box", relayed)
    assert plain.data == data
    added = rb"Date: [^\r]+\r\nMessage-ID: <[^>]+@gateway\.test>\r\n"
    assert re.fullmatch(rb"From: ann@sender\.test\r\nSubject: bare\r\n" + added + rb"\r\nbody\r\n", mail.data), mail.data


@pytest.mark.cell("servers", "corpus, octet for octet")
@pytest.mark.parametrize("kind", SERVERS, ids=lambda kind: kind.name)
def test_from_client_to_server(server: Server, gateway: Gateway, token: str) -> None:
    recipients = send_all(gateway.ports["mx"], server.domain(), token)
    differ = {}
    for name, recipient in recipients.items():
        if server.peculiar(MESSAGES[name]):
            continue
        (mail,) = server.mails(recipient)
        if mail.data != MESSAGES[name]:
            differ[name] = difference(MESSAGES[name], mail.data)
    assert not differ, report(differ)


# On each of these, in one place or another, some server ends a message (SMTP smuggling, 2023).
SEQUENCES = [
    *(b"\n.\n", b"\n.\r", b"\n.\r\n", b"\r.\r", b"\r.\n", b"\r.\r\n", b"\r\n.\n", b"\r\n.\r", b"\r\n.\r\r\n"),
    *(b"\r\r\n.\r\r\n", b"\n\r.\r\n", b"\r\n.\n\r", b"\n\n.\r\n", b"\r\n\0.\r\n", b"\r\n.\0\r\n", b"\r\n.\r\0\n"),
    *(b"\r\n. \r\n", b"\r\n.\t\r\n", b"\r\n\x0b.\r\n", b"\r\n.\x85\r\n", b"\r\n.\xc2\x85\r\n", b"\r\n..\r\n"),
]


@pytest.mark.cell("servers", "one mail for each smuggling sequence")
@pytest.mark.parametrize("kind", SERVERS, ids=lambda kind: kind.name)
def test_no_sequence_makes_two_mails(server: Server, gateway: Gateway, token: str) -> None:
    """Neither of what the strict listener takes nor of what the other repairs: at the server one mail for each 250."""
    smuggled = f"{token}-smuggled@{server.domain()}"
    behind = f"MAIL FROM:<x@sender.test>\r\nRCPT TO:<{smuggled}>\r\nDATA\r\nSubject: smuggled\r\n\r\nx\r\n"
    taken, refused = [], []
    for number, sequence in enumerate(SEQUENCES):
        for way, (listener, chunks) in enumerate(itertools.product(("mx", "lenient"), (False, True))):
            recipient = f"{token}-{number}-{way}@{server.domain()}"
            content = b"From: ann@sender.test\r\nSubject: x\r\n\r\nbody" + sequence + behind.encode()
            with smtplib.SMTP(LOOPBACK, gateway.ports[listener], "client.test", timeout=PATIENCE) as client:
                client.ehlo()
                client.mail("ann@sender.test", ["BODY=8BITMIME"])
                assert client.rcpt(recipient)[0] == 250
                if chunks:
                    client.send(f"BDAT {len(content)} LAST\r\n".encode() + content)
                else:
                    assert client.docmd("DATA")[0] == 354
                    client.send(content + b".\r\n")
                code, _ = client.getreply()
                assert client.noop()[0] == 250, sequence
            (taken if code == 250 else refused).append(recipient)
    assert len(taken) > len(SEQUENCES)
    for recipient in taken:
        assert len(server.mails(recipient)) == 1, recipient
    assert [address for address in (smuggled, *refused) if server.has(address)] == []
    assert [recipient for recipient in taken if server.has(recipient) != 1] == []


def report(differ: dict[str, str]) -> str:
    return f"{len(differ)} of {len(MESSAGES)} differ:\n" + "\n".join(f"  {name}: {how}" for name, how in differ.items())
