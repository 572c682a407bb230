"""What the gateway signs and seals, opendkim and dkimpy verify: the whole corpus, from a client through a gateway of its own
into a Maildir, as it would have gone to the next hop.

The public keys come from `postern dkim list`, as an operator would publish them; the gateway asks a name server here for
those of a chain that dkimpy has begun.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import smtplib
import socket
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dkim
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

import corpus
from gateway import FIELD, binary
from harness import INSTALLED, LOOPBACK, PATIENCE, free_port, process, run, wait_for

CONFIG = """
[server]
host_name = "gateway.test"
administrators = ["postmaster@box.test"]

[spool]
directory = "spool"
reserve = "64 MiB"

[dns]
servers = ["127.0.0.1:{dns}"]

[log]
file = "events.jsonl"

[[listener]]
name = "{name}"
address = "127.0.0.1:{port}"
role = "inbound"

[[trusted_network]]
name = "own"
network = "127.0.0.0/8"
tenant = "sender"

[[tenant]]
name = "sender"
domains = ["sender.test"]
destination = {{ maildir = "in" }}
outbound = {{ maildir = "out" }}

[[plugin]]
name = "dkim-sign"
config = {{ fallback = "gateway.test" }}

[[plugin]]
name = "arc-seal"
config = {{ domain = "gateway.test", selector = "seal", direction = "both" }}

[chain]
platform = ["arc-seal", "dkim-sign"]
"""

# Who has sealed before the gateway does.
LIST = "list.test"

KEYS = (("sender.test", "r1", "rsa"), ("sender.test", "e1", "ed25519"), ("gateway.test", "seal", "rsa"))

MESSAGES = corpus.made() | corpus.of_cpython()


@dataclass
class Signer:
    """A gateway that signs, and what DNS would have to say."""

    directory: Path
    port: int
    # Name → text of the TXT record.
    records: dict[str, str]

    def signed(self) -> dict[str, bytes]:
        """The corpus as it leaves, by its names."""
        with smtplib.SMTP(LOOPBACK, self.port, "client.test", timeout=PATIENCE) as client:
            for number, data in enumerate(MESSAGES.values()):
                refused = client.sendmail("ann@sender.test", [f"m{number}@away.test"], data, ["BODY=8BITMIME"])
                assert not refused

        def look() -> list[Path] | None:
            files = list((self.directory / "out" / "new").glob("*"))
            return files if len(files) >= len(MESSAGES) else None

        names = list(MESSAGES)
        found: dict[str, bytes] = {}
        for file in wait_for(f"{len(MESSAGES)} signed mails", look):
            raw = file.read_bytes()
            recipient = re.search(rb"^Delivered-To: m(\d+)@away\.test\r$", raw, re.MULTILINE)
            assert recipient, raw[:500]
            found[names[int(recipient.group(1))]] = raw
        assert len(found) == len(MESSAGES)
        return found

    def txt(self, name: bytes | str, timeout: int = 0) -> bytes | None:
        """As dkimpy asks."""
        asked = name.decode() if isinstance(name, bytes) else name
        text = self.records.get(asked.rstrip("."))
        return text.encode() if text else None


@contextlib.contextmanager
def started(directory: Path) -> Iterator[Signer]:
    (directory / "spool").mkdir()
    port = free_port()
    config = directory / "postern.toml"
    dns_port = free_port()
    config.write_text(CONFIG.format(name="mx", port=port, dns=dns_port))
    for domain, selector, algorithm in KEYS:
        run([binary(), "--config", config, "dkim", "generate", domain, "--selector", selector, "--algorithm", algorithm])
    listed = run([binary(), "--config", config, "dkim", "list", "--json"]).decode().splitlines()
    records = {entry["name"]: entry["text"] for entry in map(json.loads, listed)}
    assert len(records) == len(KEYS)
    list_key = directory / "list.pem"
    run(["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", list_key])
    public = run(["openssl", "rsa", "-in", list_key, "-pubout", "-outform", "DER"])
    records[f"s._domainkey.{LIST}"] = "v=DKIM1; k=rsa; p=" + base64.b64encode(public).decode()
    with name_server(dns_port, records), process([binary(), "serve", "--config", config], directory / "postern.log", [port]):
        yield Signer(directory, port, records)


@contextlib.contextmanager
def name_server(port: int, records: dict[str, str]) -> Iterator[None]:
    """Knows these TXT records and nothing else."""

    def answer(query: dns.message.QueryMessage) -> bytes:
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        question = query.question[0]
        text = records.get(question.name.to_text(omit_final_dot=True).lower())
        if text is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif question.rdtype == dns.rdatatype.TXT:
            strings = " ".join(f'"{text[at : at + 250]}"' for at in range(0, len(text), 250))
            response.answer.append(dns.rrset.from_text(question.name, 60, "IN", "TXT", strings))
        return response.to_wire()

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((LOOPBACK, port))

        def serve() -> None:
            # Ends with the socket.
            with contextlib.suppress(OSError):
                while True:
                    packet, client = server.recvfrom(4096)
                    server.sendto(answer(dns.message.from_wire(packet)), client)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield


@pytest.fixture(scope="module")
def signer() -> Iterator[Signer]:
    with tempfile.TemporaryDirectory(prefix="peers-", ignore_cleanup_errors=True) as name, started(Path(name)) as signer:
        yield signer


@pytest.fixture(scope="module")
def signed(signer: Signer) -> dict[str, bytes]:
    return signer.signed()


def signatures(raw: bytes) -> int:
    """Ours are on top of those that a message came with."""
    header = raw.partition(b"\r\n\r\n")[0] + b"\r\n"
    fields = re.findall(rb"(?m)^" + FIELD % b"DKIM-Signature", header)
    return sum(re.search(rb"\sd=(?:sender|gateway)\.test;\s+s=(?:r1|e1|seal);", field) is not None for field in fields)


def test_r27_dkimpy_verifies_what_is_signed(signer: Signer, signed: dict[str, bytes]) -> None:
    wrong = {}
    for name, raw in signed.items():
        verifier = dkim.DKIM(raw)
        count = signatures(raw)
        results = [verifier.verify(idx=index, dnsfunc=signer.txt) for index in range(count)]
        if count == 0 or not all(results):
            wrong[name] = results
    assert not wrong, f"{len(wrong)} of {len(signed)}: {wrong}"


def test_r27_a_change_is_noticed_by_dkimpy(signer: Signer, signed: dict[str, bytes]) -> None:
    raw = signed["8bit"] if "8bit" in signed else next(iter(signed.values()))
    for changed in (raw + b"x\r\n", b"From: evil@sender.test\r\n" + raw, b"Subject: other\r\n" + raw):
        for index in (0, 1):
            with contextlib.suppress(dkim.ValidationError):
                assert not dkim.DKIM(changed).verify(idx=index, dnsfunc=signer.txt)


def opendkim(signer: Signer, raw: bytes, config: Path, keys: Path) -> str:
    """What it would add as Authentication-Results; both algorithms are known to it."""
    keys.write_text("".join(f"{name} {text}\n" for name, text in signer.records.items()))
    config.write_text(f"Mode v\nTestPublicKeys {keys}\nSyslog no\nOn-BadSignature accept\nOn-Default accept\n")
    message = config.with_suffix(".eml")
    message.write_bytes(raw)
    place = INSTALLED / "opendkim"
    libraries = sorted({str(file.parent) for file in place.glob("usr/lib/**/*.so*")})
    program = ["env", f"LD_LIBRARY_PATH={':'.join(libraries)}", str(place / "usr" / "sbin" / "opendkim")]
    return run([*program, "-x", config, "-t", message, "-vv"]).decode("utf-8", "replace")


def count_of_failed(said: str) -> int:
    """Of ours; one message of the corpus has come with a signature that is none."""
    return len(re.findall(r"dkim=(?!pass)\S+ (?!reason=\"key not found in DNS\")", said))


def test_r27_opendkim_verifies_what_is_signed(signer: Signer, signed: dict[str, bytes], tmp_path: Path) -> None:
    wrong = {}
    looked_at = 0
    for name, raw in signed.items():
        # It will have nothing to do with a message that has not exactly one From with a domain in it.
        header = MESSAGES[name].partition(b"\r\n\r\n")[0] + b"\r\n"
        authors = re.findall(rb"(?mi)^" + FIELD % b"From", header)
        if len(authors) != 1 or b"@" not in authors[0]:
            continue
        looked_at += 1
        said = opendkim(signer, raw, tmp_path / "opendkim.conf", tmp_path / "keys")
        if said.count("dkim=pass") != signatures(raw) or count_of_failed(said):
            wrong[name] = said
    assert looked_at > 40
    assert not wrong, f"{len(wrong)} of {looked_at}:\n" + "\n".join(f"{name}: {said}" for name, said in wrong.items())


def test_dkimpy_verifies_the_seal(signer: Signer, signed: dict[str, bytes]) -> None:
    wrong = {}
    for name, raw in signed.items():
        validation, results, reason = dkim.arc_verify(raw, dnsfunc=signer.txt)
        if validation != dkim.CV_Pass:
            wrong[name] = (validation, results, reason)
    assert not wrong, f"{len(wrong)} of {len(signed)}: {wrong}"


def through(signer: Signer, data: bytes, recipient: str) -> bytes:
    """What becomes of a message for a neighbour."""
    with smtplib.SMTP(LOOPBACK, signer.port, "client.test", timeout=PATIENCE) as client:
        client.sendmail("list@list.test", [recipient], data)
    wanted = f"\r\nDelivered-To: {recipient}\r\n".encode()

    def look() -> list[bytes]:
        boxes = (signer.directory / box / "new" for box in ("in", "out"))
        return [raw for box in boxes for file in box.glob("*") if wanted in (raw := file.read_bytes())]

    return wait_for(f"a mail to {recipient}", look)[0]


def test_a_chain_that_dkimpy_has_begun_goes_on(signer: Signer) -> None:
    """ARC (RFC 8617): sealed by dkimpy, verified and sealed by the gateway, verified by dkimpy; twice."""
    data = MESSAGES["mime-mixed"]
    found = b"Authentication-Results: list.test; spf=pass smtp.mailfrom=list.test\r\n"
    key = (signer.directory / "list.pem").read_bytes()
    sealed = b"".join(dkim.arc_sign(found + data, b"s", LIST.encode(), key, b"list.test")) + found + data
    assert dkim.arc_verify(sealed, dnsfunc=signer.txt)[0] == dkim.CV_Pass
    once = through(signer, sealed, "one@sender.test")
    validation, results, reason = dkim.arc_verify(once, dnsfunc=signer.txt)
    assert (validation, len(results)) == (dkim.CV_Pass, 2), (reason, once[:3000])
    assert b"ARC-Seal: i=2; a=rsa-sha256; cv=pass; d=gateway.test;" in once
    twice = through(signer, once, "two@sender.test")
    validation, results, reason = dkim.arc_verify(twice, dnsfunc=signer.txt)
    assert (validation, len(results)) == (dkim.CV_Pass, 3), (reason, twice[:3000])


def test_a_chain_that_is_broken_is_said_to_be(signer: Signer) -> None:
    data = MESSAGES["mime-mixed"]
    found = b"Authentication-Results: list.test; none\r\n"
    key = (signer.directory / "list.pem").read_bytes()
    sealed = b"".join(dkim.arc_sign(found + data, b"s", LIST.encode(), key, b"list.test")) + found + data
    once = through(signer, sealed.replace(b"Subject: ", b"Subject: changed "), "three@sender.test")
    assert b"ARC-Seal: i=2; a=rsa-sha256; cv=fail; d=gateway.test;" in once
    # The signature is good and says that the chain has ended.
    validation, _, reason = dkim.arc_verify(once, dnsfunc=signer.txt)
    assert (validation, reason) == (None, "ARC-Seal[2] reported failure, the chain is terminated")
    # Whoever sees that adds nothing.
    assert through(signer, once, "four@sender.test").count(b"\r\nARC-Seal:") == 2
