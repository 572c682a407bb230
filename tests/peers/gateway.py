"""The gateway under test, as a process with a config of its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness import LOOPBACK, ROOT, Authority, free_port, process, run, wait_for

LOGIN = "anna@box.test"
PASSWORD = "open-sesame"


CONFIG = """
[server]
host_name = "gateway.test"
administrators = ["postmaster@box.test"]
max_connections_per_client = 500

[tls]
certificate = "{authority.certificate}"
key = "{authority.key}"

[spool]
directory = "spool"
reserve = "64 MiB"

[queue]
retry = ["1s"]

[delivery]
authorities = "{authority.authority}"
idle_timeout = "1s"

[dns]
system = false

[log]
file = "events.jsonl"

[[plugin]]
name = "access"
source = "builtin:access"
grants = ["metrics", "tables"]

[[plugin]]
name = "connection-policy"
source = "builtin:connection-policy"
grants = ["counters", "dns", "metrics"]

[[plugin]]
name = "routing"
source = "builtin:routing"
grants = ["metrics", "tables"]

[chain]
platform = ["access", {{ plugin = "connection-policy", exemptable = true }}, "routing"]

[[user]]
login = "{login}"
password_hash = "{hash}"
tenant = "box"
send_as = ["*"]

[[tenant]]
name = "box"
domains = ["box.test", "plain.box.test", "starttls.box.test", "implicit.box.test", "auth-plain.box.test", "auth-login.box.test"]
destination = {{ maildir = "box" }}

[[tenant]]
name = "returns"
domains = ["returns.test"]
destination = {{ maildir = "returns" }}
"""

LISTENER = """
[[listener]]
name = "{name}"
address = "{address}:{port}"
role = "{role}"
tls = "{tls}"
"""


def binary() -> Path:
    """What is tested: POSTERN, or what `cargo build` made."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    path = Path(os.environ.get("POSTERN", target / "debug" / "postern"))
    assert path.is_file(), f"there is no {path}; run `make test-peers`, or set POSTERN"
    return path.resolve()


@dataclass
class Mail:
    """A mail as it arrived in a Maildir or at a server, without the trace fields of the way."""

    data: bytes
    trace: bytes = b""


@dataclass
class Gateway:
    directory: Path
    authority: Authority
    ports: dict[str, int] = field(default_factory=dict)
    _heads: dict[Path, bytes] = field(default_factory=dict)

    @contextlib.contextmanager
    def run(self, destinations: str) -> Iterator[Gateway]:
        """Starts it; `destinations` are the tenants and smart hosts that lead to the servers under test."""
        hash = run([binary(), "password"], PASSWORD.encode()).decode().strip()
        listeners = {"mx": ("inbound", "starttls"), "plain": ("inbound", "none")}
        listeners |= {"submission": ("submission", "required"), "submissions": ("submission", "implicit")}
        text = CONFIG.format(authority=self.authority, login=LOGIN, hash=hash)
        for name, (role, tls) in listeners.items():
            self.ports[name] = free_port()
            text += LISTENER.format(name=name, address=LOOPBACK, port=self.ports[name], role=role, tls=tls)
        # One that repairs line ends.
        self.ports["lenient"] = free_port()
        text += LISTENER.format(
            name="lenient", address=LOOPBACK, port=self.ports["lenient"], role="inbound", tls="none"
        )
        text += 'line_ends = "normalize"\n'
        (self.directory / "spool").mkdir()
        config = self.directory / "postern.toml"
        config.write_text(text + destinations)
        command = [binary(), "serve", "--config", config]
        with process(command, self.directory / "postern.log", list(self.ports.values())):
            yield self

    def mails(self, box: str, recipient: str, count: int = 1) -> list[Mail]:
        """The mails to this recipient in a Maildir, at least so many; each recipient belongs to one test."""
        wanted = f"\r\nDelivered-To: {recipient}\r\n".encode()

        def look() -> list[Mail] | None:
            files = [file for file in sorted((self.directory / box / "new").glob("*")) if wanted in self._head(file)]
            return [split_maildir(file.read_bytes()) for file in files] if len(files) >= count else None

        return wait_for(f"{count} mails to {recipient} in {box}", look)

    def _head(self, file: Path) -> bytes:
        """The first lines; read once, for they don't change."""
        if file not in self._heads:
            with file.open("rb") as content:
                self._heads[file] = content.read(4000)
        return self._heads[file]

    def events(self, **wanted: str) -> list[dict[str, object]]:
        """Events of the log that have all these values."""
        log = self.directory / "events.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        events = [json.loads(line) for line in lines if line.endswith("}")]
        return [event for event in events if all(event.get(key) == value for key, value in wanted.items())]


FIELD = rb"(?:%s):[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*"


def split(raw: bytes, names: bytes, count: int | None = None) -> Mail:
    """Takes the trace fields with these names (a regular expression) from the top: `count` of them, or all there are."""
    times = "*" if count is None else f"{{{count}}}"
    found = re.match(b"(?:%s)%s" % (FIELD % names, times.encode()), raw, re.IGNORECASE)
    assert found, f"not {count} fields {names.decode()} on top of {raw[:500]!r}"
    return Mail(raw[found.end() :], found.group())


def split_maildir(raw: bytes) -> Mail:
    """What the gateway adds in a Maildir: Return-Path, a Delivered-To for each recipient, and its own Received, which its
    own reports don't have."""
    above = split(raw, b"Return-Path|Delivered-To")
    if above.data.startswith(b"Date: ") and above.trace.startswith(b"Return-Path: <>\r\n"):
        return above
    ours = split(above.data, b"Received", 1)
    assert is_ours(ours.trace), ours.trace
    return Mail(ours.data, above.trace + ours.trace)


def is_ours(received: bytes) -> bool:
    """Whether a Received field is the gateway's."""
    return re.search(rb"\sby\sgateway\.test\swith\s", received) is not None
