"""Makes JSON of the suites, so that the tests need no reader of YAML; signs mails with dkimpy and opendkim for them.

Octets of DNS texts are Latin-1 characters in the JSON.
"""

import json
import os
import pathlib
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time

import yaml

PLACE = pathlib.Path(sys.argv[1])


def spf():
    """The scenarios as they are, but each zone as a list of [name, type, value]."""
    scenarios = []
    text = (PLACE / "pyspf-2.0.14/test/rfc7208-tests.yml").read_bytes()
    for scenario in yaml.safe_load_all(text):
        records = []
        for name, entries in scenario["zonedata"].items():
            kinds = [next(iter(entry)) for entry in entries if isinstance(entry, dict)]
            for entry in entries:
                if entry == "TIMEOUT":
                    records.append([name, "TIMEOUT", None])
                    continue
                (kind, value), = entry.items()
                # As the suite says: SPF records stand for TXT where there is none; NONE keeps them from it.
                if kind == "SPF":
                    if "TXT" in kinds:
                        continue
                    kind = "TXT"
                if value == "NONE":
                    continue
                if kind == "TXT":
                    value = [value] if isinstance(value, str) else value
                    value = [part.encode().decode("latin-1") for part in value]
                records.append([name, kind, value])
        tests = {
            name: {
                "helo": test["helo"],
                "host": test["host"],
                "mailfrom": test["mailfrom"],
                "result": [test["result"]] if isinstance(test["result"], str) else test["result"],
                "explanation": test.get("explanation"),
            }
            for name, test in scenario["tests"].items()
        }
        scenarios.append({"description": scenario["description"], "tests": tests, "records": records})
    return scenarios


def arc():
    """Scenarios of validation: description, tests, and TXT records by name."""
    path = PLACE / "arc/arc-draft-validation-tests.yml"
    if not path.exists():
        return []
    scenarios = []
    for scenario in yaml.safe_load_all(path.read_text()):
        if not scenario:
            continue
        tests = {name: {"message": test["message"], "cv": test["cv"]} for name, test in scenario["tests"].items()}
        records = {name: text for name, text in (scenario.get("txt-records") or {}).items()}
        scenarios.append({"description": scenario["description"], "tests": tests, "records": records})
    return scenarios


def arc_signing():
    """Scenarios of signing: the key as numbers in hexadecimal, and the three fields expected, empty where there are none."""
    from dkim.crypto import parse_pem_private_key

    path = PLACE / "arc/arc-draft-sign-tests.yml"
    if not path.exists():
        return []
    scenarios = []
    for scenario in filter(None, yaml.safe_load_all(path.read_text())):
        key = parse_pem_private_key(scenario["privatekey"].encode())
        tests = {
            name: {"message": test["message"], "time": test["t"], "signed": test["sig-headers"].split(":"),
                   "service_id": test["srv-id"], "seal": test["AS"], "signature": test["AMS"], "results": test["AAR"]}
            for name, test in scenario["tests"].items()
        }
        scenarios.append({"tests": tests, "records": scenario["txt-records"], "domain": scenario["domain"],
                          "selector": scenario["sel"], "modulus": f"{key['modulus']:x}",
                          "exponent": f"{key['privateExponent']:x}"})
    return scenarios


DATA = PLACE / "dkimpy-1.1.8/dkim/tests/data"

MAIL = b"""\
From: Joe <joe@example.com>\r
To: Suzie <suzie@example.org>,\r
\tothers@example.org\r
Subject:  two  spaces \r
Date: Thu, 14 Jan 2015 15:00:01 -0800\r
Message-ID: <1@example.com>\r
\r
"""

BODIES = {
    "plain": b"Hello\r\n",
    "empty": b"",
    "white space": b" a \t b\t\r\n\t c  \r\n",
    "empty lines at the end": b"a\r\n\r\n\r\n",
    # What mail-auth 0.13.3 gets wrong.
    "lines of white space at the end": b"a\r\n \r\n\t \r\n",
    "white space only": b" \r\n\t\r\n",
    "eight bits": "Gr\u00fc\u00dfe\r\n".encode(),
    "long": b"0123456789 abcdef\r\n" * 20000,
}


def key_records():
    text = lambda name: (DATA / name).read_bytes().decode("latin-1").strip()
    return {
        "test": text("test.txt"),
        "brisbane": "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
        "broken": "k=rsa; p=MFwwDQYJKoZIhvNAQEBBQADSwAwSAJBANmBe10IgY+u7h3enWTukkqtUD5PR52T"
        "b/mPfjC0QJTocVBq6Za/PlzfV+Py92VaCak19F4WrbVTK5Gg5tW220MCAwEAAQ==",
        "exim": text("eximtest.dns"),
        "badk": text("badk.txt"),
        "badversion": text("badversion.txt"),
    }


def vectors():
    """Mails of dkimpy's own tests, and what their signatures are worth."""
    keys = key_records()
    football = {"test._domainkey.football.example.com": keys["test"],
                "brisbane._domainkey.football.example.com": keys["brisbane"]}
    broken = {**football, "test._domainkey.football.example.com": keys["broken"]}
    read = lambda name: (DATA / name).read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    return [
        case("rfc6376.signed.msg", read("rfc6376.signed.msg"), football, ["pass", "pass"]),
        case("rfc6376.signed.rsa.msg", read("rfc6376.signed.rsa.msg"), football, ["pass"]),
        case("a broken key", read("rfc6376.signed.rsa.msg"), broken, ["permerror"]),
        case("no t=", read("rfc6376.signed.no_t.msg"), football, None),
        case("not signed", read("rfc6376.w1258.msg"), football, []),
        case("a bad domain", read("test.message.baddomain"), {}, ["neutral"]),
        case("exim", read("ed25519test2.msg"), {"sed._domainkey.test.ex": keys["exim"]}, ["pass"]),
    ]


def case(name, mail, keys, outcomes):
    """Outcomes None: whatever it is, it is no pass."""
    return {"name": name, "mail": mail.decode("latin-1"), "keys": keys, "outcomes": outcomes}


def by_dkimpy():
    import dkim

    keys = key_records()
    rsa, ed25519 = (DATA / "test.private").read_bytes(), (DATA / "rfc8032_7_1.key").read_bytes()
    cases = []
    for what, body in BODIES.items():
        for header_form in (b"simple", b"relaxed"):
            for body_form in (b"simple", b"relaxed"):
                for algorithm, selector, key in ((b"rsa-sha256", "test", rsa), (b"ed25519-sha256", "brisbane", ed25519)):
                    mail = MAIL + body
                    field = dkim.sign(mail, selector.encode(), b"example.com", key, signature_algorithm=algorithm,
                                      canonicalize=(header_form, body_form))
                    name = f"dkimpy {algorithm.decode()} {header_form.decode()}/{body_form.decode()}: {what}"
                    records = {f"{selector}._domainkey.example.com": keys[selector]}
                    cases.append(case(name, field + mail, records, ["pass"]))
                    changed = (field + mail).replace(b"From: Joe", b"From: Jim")
                    cases.append(case(f"{name}, changed", changed, records, ["fail"]))
    field = dkim.sign(MAIL, b"test", b"example.com", rsa)
    for bad in ("badk", "badversion"):
        cases.append(case(f"key {bad}", field + MAIL, {"test._domainkey.example.com": keys[bad]}, ["permerror"]))
    return cases


class Milter:
    """As much of the milter protocol (version 6) as has a filter sign a mail."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)

    def say(self, command, data=b""):
        self.socket.sendall(struct.pack("!I", len(data) + 1) + command + data)

    def hear(self):
        octets = self.read(struct.unpack("!I", self.read(4))[0])
        return octets[:1], octets[1:]

    def read(self, count):
        octets = b""
        while len(octets) < count:
            piece = self.socket.recv(count - len(octets))
            if not piece:
                raise OSError("the milter has hung up")
            octets += piece
        return octets

    def ask(self, command, data=b""):
        self.say(command, data)
        answer, _ = self.hear()
        if answer != b"c":
            raise OSError(f"{command} was answered {answer}")

    def sign(self, mail):
        """The field that it wants added."""
        # All actions, all steps; fields with their leading space (SMFIP_HDR_LEADSPC), which the simple form counts.
        self.say(b"O", struct.pack("!III", 6, 0x1FF, 0x100000))
        self.hear()
        self.ask(b"C", b"localhost\0" + b"4" + struct.pack("!H", 2525) + b"127.0.0.1\0")
        self.ask(b"H", b"localhost\0")
        self.ask(b"M", b"<joe@example.com>\0")
        self.ask(b"R", b"<suzie@example.org>\0")
        header, _, body = mail.partition(b"\r\n\r\n")
        for field in re.split(rb"\r\n(?![ \t])", header):
            name, _, value = field.partition(b":")
            self.ask(b"L", name + b"\0" + value.replace(b"\r\n", b"\n") + b"\0")
        self.ask(b"N")
        for at in range(0, len(body), 65535):
            self.ask(b"B", body[at:at + 65535])
        self.say(b"E")
        found = None
        while True:
            command, data = self.hear()
            if command in (b"h", b"i"):
                name, value = (data if command == b"h" else data[4:]).rstrip(b"\0").split(b"\0", 1)
                if name.lower() == b"dkim-signature":
                    found = b"DKIM-Signature:" + value.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
            elif command in (b"a", b"c"):
                return found + b"\r\n"


def by_opendkim():
    """Nothing where there is no opendkim: on the PATH, or where tests/peers/debian.sh has unpacked it."""
    unpacked = PLACE.parent / "peers/opendkim"
    program = shutil.which("opendkim") or shutil.which(unpacked / "usr/sbin/opendkim")
    if program is None:
        print("tests/suites: no opendkim here; mails signed by it are left out (tests/peers/install unpacks it)", file=sys.stderr)
        return []
    libraries = ":".join(sorted({str(path.parent) for path in (unpacked / "usr/lib").glob("**/*.so*")}))
    public = key_records()["test"]
    cases = []
    for header_form in ("simple", "relaxed"):
        for body_form in ("simple", "relaxed"):
            with tempfile.TemporaryDirectory() as directory, socket.socket() as free:
                key = pathlib.Path(directory, "key")
                key.write_bytes((DATA / "test.private").read_bytes())
                key.chmod(0o600)
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
                free.close()
                config = pathlib.Path(directory, "opendkim.conf")
                config.write_text(f"Socket inet:{port}@127.0.0.1\nMode s\nDomain example.com\nSelector test\nKeyFile {key}\n"
                                  f"Canonicalization {header_form}/{body_form}\nSignatureAlgorithm rsa-sha256\n"
                                  "Syslog no\nBackground no\nRequireSafeKeys no\nAutoRestart no\n")
                daemon = subprocess.Popen([program, "-f", "-x", str(config)],
                                          env={**os.environ, "LD_LIBRARY_PATH": libraries})
                try:
                    for what, body in BODIES.items():
                        field = connect(port, daemon).sign(MAIL + body)
                        name = f"opendkim {header_form}/{body_form}: {what}"
                        records = {"test._domainkey.example.com": public}
                        cases.append(case(name, field + MAIL + body, records, ["pass"]))
                finally:
                    daemon.terminate()
                    daemon.wait()
    return cases


def connect(port, daemon):
    end = time.monotonic() + 10
    while True:
        try:
            return Milter(port)
        except ConnectionRefusedError:
            if daemon.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.05)


def against_pyspf():
    """Records that are ours, and what pyspf makes of them."""
    import spf

    records = {
        "a.example.com": ["v=spf1 ip4:192.0.2.0/28 ip6:2001:db8::/32 -all"],
        "b.example.com": ["v=spf1 include:a.example.com ?ip4:192.0.2.64/26 ~all"],
        "c.example.com": ["v=spf1 exists:%{ir}.%{v}.list.example.com redirect=b.example.com"],
        "d.example.com": ["v=spf1 a:%{d1r}.example.com/30 -all"],
        "e.example.com": ["v=spf1 ip4:192.0.2.0/33 all"],
        "f.example.com": ["v=spf1 include:none.example.com -all"],
        "g.example.com": ["v=spf1 redirect=g.example.com"],
        "h.example.com": ["unrelated", "v=spf1 ip4:192.0.2.99 ?all"],
        "i.example.com": ["v=spf1 -all", "v=spf1 +all"],
    }
    addresses = {"33.2.0.192.in-addr.list.example.com": "127.0.0.2", "d.example.com": "192.0.2.17"}

    def look_up(name, kind, strict=True, timeout=None):
        name = name.rstrip(".").lower()
        if kind == "TXT":
            return [((name, "TXT"), (text.encode(),)) for text in records.get(name, [])]
        if kind == "A" and name in addresses:
            return [((name, "A"), addresses[name])]
        return []

    spf.DNSLookup = look_up
    clients = ["192.0.2.1", "192.0.2.17", "192.0.2.33", "192.0.2.70", "192.0.2.99", "2001:db8::1", "2001:db9::1"]
    questions = []
    for domain in [*records, "none.example.com"]:
        for client in clients:
            result, _, _ = spf.query(i=client, s=f"joe@{domain}", h="mx.example.net", strict=True).check()
            questions.append([domain, client, result])
    texts = [[name, "TXT", [text]] for name, list in records.items() for text in list]
    return {"records": texts + [[name, "A", address] for name, address in addresses.items()], "questions": questions}


def write(name, value):
    (PLACE / name).write_text(json.dumps(value, indent=1))


write("spf.json", spf())
write("arc.json", arc())
write("arc-signing.json", arc_signing())
write("dkim.json", vectors() + by_dkimpy() + by_opendkim())
write("pyspf.json", against_pyspf())
