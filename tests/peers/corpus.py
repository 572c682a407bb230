"""Messages that a relay must not change by one octet: made here, and CPython's own, where they are installed."""

from __future__ import annotations

import base64
import importlib.util
import random
import re
from email.generator import BytesGenerator
from email.message import EmailMessage
from email.policy import SMTP
from io import BytesIO
from pathlib import Path

HEAD = (
    b"From: Ann <ann@sender.test>\r\nTo: Bob <bob@box.test>\r\nSubject: corpus\r\n"
    b"Date: Mon, 02 Nov 2026 10:00:00 +0000\r\nMessage-ID: <corpus@sender.test>\r\n"
)


def simple(body: bytes) -> bytes:
    return HEAD + b"\r\n" + body


def with_fields(fields: bytes, body: bytes = b"body\r\n") -> bytes:
    return HEAD + fields + b"\r\n" + body


def mime(kind: str) -> bytes:
    """What Python's email package makes of each kind of structure."""
    message = EmailMessage(policy=SMTP)
    message["From"], message["To"], message["Subject"] = "ann@sender.test", "bob@box.test", f"MIME {kind}"
    message["Message-ID"], message["Date"] = "<mime@sender.test>", "Mon, 02 Nov 2026 10:00:00 +0000"
    message.set_content("Plain text with ümläuts, and more of it. " * 20 + "\n", cte=CTES.get(kind))
    if kind in ("alternative", "related", "mixed", "deep"):
        message.add_alternative("<p>HTML <img src='cid:a'></p>\n", subtype="html")
    if kind in ("related", "deep"):
        list(message.iter_parts())[-1].add_related(random.Random(1).randbytes(3000), "image", "png", cid="<a>")
    if kind in ("mixed", "deep"):
        message.add_attachment(random.Random(2).randbytes(70_000), "application", "octet-stream", filename="größe.bin")
        message.add_attachment("text\n" * 10, filename="a.txt")
    if kind in ("message", "deep"):
        inner = EmailMessage(policy=SMTP)
        inner["Subject"] = "inner"
        inner.set_content("inside\n")
        message.add_attachment(inner)
    out = BytesIO()
    BytesGenerator(out, policy=SMTP).flatten(message)
    return out.getvalue()


CTES = {"8bit": "8bit", "base64": "base64", "quoted-printable": "quoted-printable"}
KINDS = (*CTES, "alternative", "related", "mixed", "message", "deep")


def bodies() -> dict[str, bytes]:
    noise = random.Random(3)
    eight_bit = bytes(octet for octet in range(1, 256) if octet not in b"\r\n")
    lines = [bytes(noise.choice(eight_bit) for _ in range(noise.randrange(0, 200))) for _ in range(200)]
    return {
        "one-line": b"hello\r\n",
        "empty-body": b"",
        "one-empty-line": b"\r\n",
        "blank-lines-only": b"\r\n" * 10,
        "trailing-blank-lines": b"text\r\n" + b"\r\n" * 5,
        "leading-blank-lines": b"\r\n" * 5 + b"text\r\n",
        "trailing-spaces": b"text   \r\n\t\r\n   \r\ntext\t \r\n",
        "one-dot": b".\r\n",
        "dots": b".\r\n..\r\n...\r\n.x\r\n..x\r\n. \r\n",
        "dot-at-the-end": b"text\r\n.\r\n",
        "dots-after-blank-lines": b"\r\n\r\n.\r\n\r\n.\r\n",
        "many-dots": b"".join(b"." * (n % 5) + b"\r\n" for n in range(3000)),
        "like-a-dialogue": b"QUIT\r\nRSET\r\n.\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n.\r\n",
        "from-lines": b"From the start\r\n>From quoted\r\n>>From twice\r\nFrom ann@sender.test Mon Nov  2 10:00:00 2026\r\n",
        "boundary-like": b"--x\r\n--x--\r\n--\r\n-- \r\nsignature\r\n",
        "header-like": b"Received: from nowhere\r\nBcc: nobody@box.test\r\n\r\nX: y\r\n",
        "eight-bit": b"\r\n".join(lines) + b"\r\n",
        "latin-1": "Grüße aus Köln\r\n".encode("latin-1"),
        "utf-8": "Grüße, приве́т, こんにちは, 👋\r\n".encode(),
        "control-octets": bytes(octet for octet in range(1, 32) if octet not in b"\r\n") + b"\x7f\r\n",
        "base64": base64.encodebytes(noise.randbytes(20_000)).replace(b"\n", b"\r\n"),
        "line-of-998": b"x" * 998 + b"\r\n",
        "lines-of-998": (b"y" * 998 + b"\r\n") * 200,
        "lines-of-998-dots": (b"." * 998 + b"\r\n") * 20,
        "line-of-998-eight-bit": "ü".encode() * 499 + b"\r\n",
        "line-of-512": b"z" * 510 + b"\r\n" + b"z" * 511 + b"\r\n" + b"z" * 512 + b"\r\n",
        "short-lines": b"".join(b"%d\r\n" % n for n in range(20_000)),
        # A dot just before, at and behind the borders of usual buffers.
        **{f"dot-near-{size}": dot_near(size) for size in (1024, 4096, 8192, 16_384, 65_536)},
    }


def dot_near(size: int) -> bytes:
    """Lines of a dot each, so placed that every offset around the border is once the beginning of a line."""
    fill = (b"f" * 62 + b"\r\n") * ((size - len(HEAD) - 64) // 64)
    return fill + b"".join(b"g" * n + b"\r\n.\r\n..\r\n" for n in range(40))


def headers() -> dict[str, bytes]:
    received = b"".join(
        b"Received: from h%d.test (h%d.test [192.0.2.%d])\r\n"
        b"\tby h%d.test with ESMTP id %d;\r\n\tMon, 2 Nov 2026 10:00:00 +0000\r\n"
        % (n, n, n, n + 1, n)
        for n in range(12)
    )
    return {
        "headers-only": HEAD,
        "headers-and-separator": HEAD + b"\r\n",
        "one-field": b"Subject: x\r\n\r\n",
        "folded": with_fields(b"X-Folded: one\r\n two\r\n\tthree\r\n  \t four\r\n"),
        "folded-at-once": with_fields(b"X-Folded:\r\n one\r\n"),
        "folded-references": with_fields(b"References: " + b"\r\n ".join(b"<%d@sender.test>" % n for n in range(50)) + b"\r\n"),
        "no-space-after-colon": with_fields(b"X-Tight:value\r\nX-Wide:      value\r\nX-Tab:\tvalue\r\n"),
        "empty-fields": with_fields(b"X-Empty:\r\nX-Blank: \r\nX-Tab:\t\r\n"),
        "case-and-order": with_fields(b"x-LOWER: a\r\nX-UPPER: b\r\nx-lower: c\r\nX-LOWER: d\r\n"),
        "trailing-white-space": with_fields(b"X-Space: value   \r\nX-Tab: value\t\r\n"),
        "twice-the-same": with_fields(b"Comments: a\r\nComments: a\r\nComments: a\r\n"),
        "received-of-others": received + HEAD + b"\r\nbody\r\n",
        "trace-of-others": b"Return-Path: <x@y.test>\r\nDelivered-To: x@y.test\r\nX-Original-To: x@y.test\r\n"
        + simple(b"body\r\n"),
        "signature": with_fields(
            b"DKIM-Signature: v=1; a=rsa-sha256; c=simple/simple; d=sender.test; s=s;\r\n"
            b"\th=from:to:subject;\r\n\tbh=AAAA=;\r\n\tb=AAAABBBB\r\n\t CCCC==\r\n"
        ),
        "authentication-results": with_fields(b"Authentication-Results: other.test; spf=pass smtp.mailfrom=x.test\r\n"),
        "encoded-words": with_fields(
            b"Comments: =?utf-8?Q?Gr=C3=BC=C3=9Fe?= =?iso-8859-1?B?S/ZsbiA=?=\r\n =?utf-8?B?8J+Riw==?=\r\n"
        ),
        "raw-eight-bit": with_fields("X-Raw: Grüße\r\nX-Latin: ".encode() + "Köln\r\n".encode("latin-1")),
        "long-field": with_fields(b"X-Long: " + b"v" * 989 + b"\r\n"),
        "long-folded-field": with_fields(b"X-Long: " + b"\r\n ".join([b"v" * 900] * 20) + b"\r\n"),
        "many-fields": with_fields(b"".join(b"X-Field-%d: %d\r\n" % (n, n) for n in range(400))),
        "odd-names": with_fields(b"X-!#$%&'*+-.^_`{|}~: odd\r\nX: short\r\n"),
        "groups-and-comments": with_fields(
            b'Cc: a group:x@y.test, (comment (nested)) z@y.test;, "quoted \\" @" <q@y.test>\r\n'
        ),
        "resent": with_fields(
            b"Resent-From: x@y.test\r\nResent-To: z@y.test\r\nResent-Date: Mon, 2 Nov 2026 10:00:00 +0000\r\n"
        ),
        "bcc-and-length": with_fields(b"Bcc: hidden@box.test\r\nContent-Length: 6\r\nStatus: RO\r\n"),
        "addresses-without-domain": b"From: ann\r\nTo: bob, root\r\nSubject: bare\r\n\r\nbody\r\n",
    }


def made() -> dict[str, bytes]:
    messages = {f"body-{name}": simple(body) for name, body in bodies().items()}
    messages |= {f"header-{name}": message for name, message in headers().items()}
    return messages | {f"mime-{kind}": mime(kind) for kind in KINDS}


def of_cpython() -> dict[str, bytes]:
    """The files of CPython's own tests, as they would come by SMTP: CRLF at each line's end, NUL not at all.

    What begins with a line of an mbox, and what has a header that is none, is repaired by every mail server.
    """
    spec = importlib.util.find_spec("test")
    places = list(spec.submodule_search_locations or []) if spec else []
    files = [file for place in places for file in sorted(Path(place, "test_email", "data").glob("*.txt"))]
    messages = {}
    for file in files:
        text = re.sub(rb"\r\n|\r|\n", b"\r\n", file.read_bytes())
        if b"\0" not in text and has_header(text):
            messages[f"cpython-{file.stem}"] = text if text.endswith(b"\r\n") else text + b"\r\n"
    return messages


def has_header(text: bytes) -> bool:
    """RFC 5322 §2.2: fields, folded or not, up to an empty line."""
    return re.match(rb"(?:[!-9;-~]+:[^\r\n]*\r\n(?:[ \t]+[^\s][^\r\n]*\r\n)*)+(?:\r\n|\Z)", text) is not None
