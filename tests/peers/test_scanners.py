"""clamd and rspamd behind the plugins antivirus and antispam: what they find is refused or marked, what they don't comes
through untouched."""

from __future__ import annotations

import base64
import contextlib
import smtplib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway import Gateway, binary
from harness import LOOPBACK, Authority, free_port, run, wait_for
from scanners import EICAR, GTUBE, UNPACKED, Clamd, Rspamd

pytestmark = pytest.mark.skipif(not UNPACKED.is_dir(), reason="clamd and rspamd are not installed")

CONFIG = """
[[scanner]]
name = "clamav"
kind = "clamd"
address = "{address}"
timeout = "20s"

[[scanner]]
name = "rspamd"
kind = "rspamd"
address = "http://{loopback}:{rspamd}"
timeout = "20s"

[[scanner]]
name = "nobody"
kind = "clamd"
address = "tcp:{loopback}:{nobody}"

[[plugin]]
name = "antivirus"
source = "builtin:antivirus"
grants = ["metrics", "scan"]
scanners = ["clamav"]
available = true

[[plugin]]
name = "antispam"
source = "builtin:antispam"
grants = ["metrics", "scan"]
scanners = ["rspamd"]
available = true

[[plugin]]
name = "unwell"
source = "builtin:antivirus"
grants = ["metrics", "scan"]
scanners = ["nobody"]
available = true
config = {{ scanners = ["nobody"] }}

[[tenant]]
name = "scanned"
domains = ["scanned.test"]
destination = {{ maildir = "scanned" }}
chain = ["antivirus", "antispam"]

[[tenant]]
name = "unlucky"
domains = ["unlucky.test"]
destination = {{ maildir = "unlucky" }}
chain = ["unwell"]
"""


@dataclass
class Scanned:
    gateway: Gateway
    clamd: Clamd
    rspamd: Rspamd

    def send(self, content: bytes, *recipients: str) -> tuple[int, str]:
        """The reply to the mail."""
        with smtplib.SMTP(LOOPBACK, self.gateway.ports["plain"], local_hostname="client.test") as client:
            client.ehlo()
            client.mail("a@far.test")
            for recipient in recipients:
                assert client.rcpt(recipient)[0] == 250
            code, text = client.data(content)
            return code, text.decode()

    def delivered(self, recipient: str) -> bytes:
        """The mail in the Maildir, with what the gateway has put above it."""
        wanted = f"\r\nDelivered-To: {recipient}\r\n".encode()

        def look() -> bytes | None:
            files = (self.gateway.directory / "scanned" / "new").glob("*")
            return next((mail for mail in map(Path.read_bytes, files) if wanted in mail), None)

        return wait_for(f"a mail to {recipient}", look)


@pytest.fixture(scope="module", params=["unix", "tcp"])
def scanned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scanned]:
    # Short, for the sockets in it.
    directory = tmp_path_factory.mktemp("s")
    authority_of = directory / "authority"
    authority_of.mkdir()
    (directory / "gateway").mkdir()
    gateway = Gateway(directory / "gateway", Authority.make(authority_of))
    clamd, rspamd = Clamd(directory / "clamd"), Rspamd(directory / "rspamd")
    with contextlib.ExitStack() as stack:
        stack.enter_context(clamd.run())
        stack.enter_context(rspamd.run())
        address = f"unix:{clamd.socket}" if request.param == "unix" else f"tcp:{LOOPBACK}:{clamd.port}"
        config = CONFIG.format(address=address, loopback=LOOPBACK, rspamd=rspamd.port, nobody=free_port())
        stack.enter_context(gateway.run(config))
        yield Scanned(gateway, clamd, rspamd)


def plain(subject: str, body: bytes) -> bytes:
    return f"From: a@far.test\r\nTo: one@scanned.test\r\nSubject: {subject}\r\n\r\n".encode() + body + b"\r\n"


def attached(content: bytes) -> bytes:
    """As an attachment in base64."""
    body = base64.encodebytes(content).replace(b"\n", b"\r\n")
    return (
        b"From: a@far.test\r\nSubject: report\r\nMIME-Version: 1.0\r\n"
        b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n'
        b"--b\r\nContent-Type: text/plain\r\n\r\nSee there.\r\n"
        b'--b\r\nContent-Type: application/octet-stream; name="r.com"\r\n'
        b"Content-Transfer-Encoding: base64\r\nContent-Disposition: attachment\r\n\r\n" + body + b"--b--\r\n"
    )


def test_r35_a_virus_in_the_text_is_refused(scanned: Scanned) -> None:
    reply = scanned.send(plain("x", b"CONTENT-" + EICAR), "virus@scanned.test")
    assert reply == (550, "5.7.1 This mail carries a virus: Test.Content.UNOFFICIAL")


def test_r35_a_virus_in_an_attachment_is_refused(scanned: Scanned) -> None:
    """By its hash: so clamd was given the mail as it came, and took it apart."""
    reply = scanned.send(attached(EICAR), "virus@scanned.test")
    assert reply == (550, "5.7.1 This mail carries a virus: Test.Hash.UNOFFICIAL")


def test_clean_mails_come_through_one_after_the_other(scanned: Scanned) -> None:
    content = attached(b"nothing\n" * 5000)
    for number in range(5):
        assert scanned.send(content, f"clean{number}@scanned.test")[0] == 250
        mail = scanned.delivered(f"clean{number}@scanned.test")
        head, rest = mail[: -len(content)], mail[-len(content) :]
        assert rest == content
        assert b"X-Virus-Status: Clean\r\n" in head and b"X-Spam-Flag: NO\r\n" in head


def test_a_mail_above_clamds_own_limit_is_marked_as_unchecked(scanned: Scanned) -> None:
    assert scanned.send(plain("big", b"x" * 70 + b"\r\n" + b"0123456789\r\n" * 200_000), "big@scanned.test")[0] == 250
    assert b"X-Virus-Status: Unchecked (too big)\r\n" in scanned.delivered("big@scanned.test")[:2000]


def test_r35_what_rspamd_rejects_is_refused(scanned: Scanned) -> None:
    assert scanned.send(plain("x", GTUBE), "spam@scanned.test") == (550, "5.7.1 Gtube pattern")


def test_r35_spam_is_tagged_and_x8_rspamd_knows_the_envelope(scanned: Scanned) -> None:
    content = plain("cheap watches", b"x").replace(b"\r\n\r\n", b"\r\nX-Spam-Flag: NO\r\n\r\n")
    assert scanned.send(content, "one@scanned.test", "two@scanned.test")[0] == 250
    fields = scanned.delivered("one@scanned.test").replace(b"\r\n ", b" ")
    assert b"X-Spam-Flag: YES\r\n" in fields and b"X-Spam-Flag: NO\r\n" not in fields
    for symbol in (b"SUBJECT_CHEAP", b"TOLD_IP", b"TOLD_HELO", b"TOLD_FROM", b"TOLD_RCPT", b"TOLD_QUEUE"):
        assert symbol in fields, fields


def test_a_scanner_that_is_not_there_defers(scanned: Scanned) -> None:
    code, text = scanned.send(plain("x", b"x"), "x@unlucky.test")
    assert (code, text) == (451, "4.7.1 Mail can't be scanned for viruses now, try again later")


def test_check_deep_asks_each_scanner(scanned: Scanned) -> None:
    with pytest.raises(AssertionError) as found:
        run([binary(), "check", "--deep", "--config", scanned.gateway.directory / "postern.toml"])
    said = str(found.value)
    assert "the scanner nobody does not answer at tcp:" in said
    assert "the scanner clamav" not in said and "the scanner rspamd" not in said
