"""Exim and OpenSMTPD. Their packages don't bear another mail server beside them, so they were only unpacked; they run in
a mount namespace of their own, in which the users and folders are there that they have compiled in."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session

from gateway import Mail, split
from harness import INSTALLED, LOOPBACK, free_port, process, run
from network import LOGIN, PASSWORD
from servers import Server, ours

SBIN = INSTALLED / "debian" / "usr" / "sbin"


def isolated(directory: Path, users: Sequence[str], tmpfs: Sequence[str], prepare: str, command: Sequence[object]) -> list[str]:
    """The command, in a namespace where these users exist and an empty file system is mounted over these folders."""
    extended = {"passwd": "{name}:x:{id}:{id}::/nonexistent:/usr/sbin/nologin\n", "group": "{name}:x:{id}:\n"}
    lines = ["set -e"]
    for file, line in extended.items():
        copy = directory / file
        added = "".join(line.format(name=name, id=64_200 + n) for n, name in enumerate(users))
        copy.write_text(Path("/etc", file).read_text() + added)
        lines.append(f"mount --bind {shlex.quote(str(copy))} /etc/{file}")
    # They ask for the client's name before they greet it; nobody answers here, and at once.
    (directory / "resolv.conf").write_text(f"nameserver {LOOPBACK}\noptions timeout:1 attempts:1\n")
    lines.append(f"mount --bind {shlex.quote(str(directory / 'resolv.conf'))} /etc/resolv.conf")
    lines += [f"mount -t tmpfs none {folder}" for folder in tmpfs]
    lines += [prepare, "exec " + shlex.join(str(word) for word in command)]
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", "\n".join(lines)]


def can_isolate() -> bool:
    try:
        run(["unshare", "--mount", "--propagation", "private", "mount", "-t", "tmpfs", "none", "/run"])
    except AssertionError:
        return False
    return True


EXIM = """
primary_hostname = exim.test
exim_path = {exim}
exim_user = root
exim_group = root
never_users =
spool_directory = {home}/spool
log_file_path = {home}/%slog
pid_file_path = {home}/pid
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port} : {implicit_port}
tls_on_connect_ports = {implicit_port}
tls_advertise_hosts = *
tls_certificate = {authority.certificate}
tls_privatekey = {authority.key}
auth_advertise_hosts = ${{if eq {{$tls_in_cipher}}{{}}{{}}{{*}}}}
smtputf8_advertise_hosts = *
chunking_advertise_hosts = *
dsn_advertise_hosts = *
host_lookup =
rfc1413_hosts =
message_size_limit = 60M
smtp_accept_max = 100
smtp_accept_queue_per_connection = 0
return_path_remove = false
delivery_date_remove = false
envelope_to_remove = false
acl_smtp_rcpt = recipient

begin acl
recipient:
  deny message = 550 5.1.1 no such user
    local_parts = ^nobody
  defer message = 451 4.7.1 come back later
    local_parts = ^waits
    condition = ${{if exists {{{gate}}}}}
  accept

begin routers
all:
  driver = accept
  transport = box

begin transports
box:
  driver = appendfile
  directory = {home}/mail
  create_directory
  maildir_format
  envelope_to_add
  user = mail
  group = mail

begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${{if and {{{{eq {{$auth2}}{{{login}}}}}{{eq {{$auth3}}{{{password}}}}}}}}}
  server_set_id = $auth2
"""


class Exim(Server):
    name = "exim"
    offers = frozenset({"PIPELINING", "8BITMIME", "SMTPUTF8", "STARTTLS", "DSN", "CHUNKING"})

    @contextlib.contextmanager
    def serve(self) -> Iterator[None]:
        home, binary = self.place.directory, SBIN / "exim4"
        (home / "mail").mkdir()
        shutil.chown(home / "mail", "mail", "mail")
        config = home / "exim.conf"
        text = EXIM.format(
            home=home,
            exim=binary,
            port=self.port,
            implicit_port=self.implicit_port,
            authority=self.place.authority,
            gate=self.place.gate,
            login=LOGIN,
            password=PASSWORD,
        )
        config.write_text(text)
        config.chmod(0o644)
        command = isolated(home, ["Debian-exim"], [], "", [binary, "-C", config, "-bdf", "-q1m"])
        with process(command, home / "exim.log", [self.port, self.implicit_port]):
            yield

    def arrived(self) -> Iterator[tuple[str, Mail]]:
        for file in sorted((self.place.directory / "mail" / "new").glob("*")):
            raw = file.read_bytes().replace(b"\n", b"\r\n")
            envelope = split(raw, b"Envelope-to", 1).trace
            own = split(raw[len(envelope) :], b"Received", 1).trace
            for address in re.findall(rb"[^\s,]+@[^\s,]+", envelope):
                yield address.decode(), ours(raw, envelope + own)

    def peculiar(self, data: bytes) -> str:
        return "" if b"\r\n\r\n" in data else "adds the empty line below a header without a body"


OPENSMTPD = """
pki test cert "{home}/server.pem"
pki test key "{home}/server.key"
table users {{ {login} = "{hash}" }}
filter gate proc-exec "{home}/gate" user root
listen on 127.0.0.1 port {port} hostname opensmtpd.test tls pki test auth-optional <users> filter gate
listen on 127.0.0.1 port {implicit_port} hostname opensmtpd.test smtps pki test filter gate
action "relay" relay host smtp://127.0.0.1:{behind}
match from any for any rcpt-to regex "^nobody.*" reject
match from any for any action "relay"
smtp max-message-size 60M
"""

# smtpd-filters(7). First lines `config|…`, the last of them `config|ready`; then, of what it registered for:
# filter|VERSION|TIME|smtp-in|PHASE|SESSION|TOKEN|PARAMETER.
GATE = """#!/bin/sh
while IFS='|' read -r kind word _ _ _ session token parameter; do
    case $kind-$word in
    config-ready) printf 'register|filter|smtp-in|rcpt-to\\nregister|ready\\n' ;;
    filter-*)
        answer=proceed
        case $parameter in
        waits* | '<waits'*) [ -e {gate} ] && answer='reject|451 4.7.1 come back later' ;;
        esac
        echo "filter-result|$session|$token|$answer"
        ;;
    esac
done
"""

# As its package makes them.
FOLDERS = """
mkdir -p /var/lib/opensmtpd/empty /var/spool/smtpd && chmod 711 /var/spool/smtpd && cd /var/spool/smtpd
mkdir corrupt incoming offline purge queue temporary
chown opensmtpq corrupt incoming purge queue temporary && chmod 700 corrupt incoming purge queue temporary
chgrp opensmtpq offline && chmod 770 offline
cd /
"""


def opensmtpd_version() -> tuple[int, ...]:
    try:
        said = subprocess.run([SBIN / "smtpd", "-h"], capture_output=True, check=False).stderr
    except OSError:
        return ()
    found = re.search(rb"OpenSMTPD (\d+)\.(\d+)", said)
    return tuple(int(number) for number in found.groups()) if found else ()


class OpenSmtpd(Server):
    """It sends on what it takes, in the clear, to an aiosmtpd behind it, which keeps it."""

    name = "opensmtpd"
    offers = frozenset({"8BITMIME", "STARTTLS", "DSN"})
    # Before 7.4 with OpenSSL 3 (Debian 12) it offers STARTTLS, and then no handshake succeeds: its issue 1171.
    tls = opensmtpd_version() >= (7, 4)
    _without = () if tls else ("verified TLS", "implicit TLS", "AUTH")
    cannot = {**Server.cannot, **dict.fromkeys(_without, "its TLS is broken with OpenSSL 3 (its issue 1171)")}
    # It says 550 and no more.
    unknown = r"5\.0\.0"

    @contextlib.contextmanager
    def serve(self) -> Iterator[None]:
        home, behind = self.place.directory, free_port()
        loop = self.place.background.loop
        new = lambda: SMTP(self, enable_SMTPUTF8=True, data_size_limit=60_000_000, loop=loop)  # noqa: E731
        server = self.place.background.call(loop.create_server(new, LOOPBACK, behind))
        self._configure(behind)
        command = [SBIN / "smtpd", "-d", "-f", home / "smtpd.conf"]
        isolation = isolated(home, ["opensmtpd", "opensmtpq"], ["/var/spool", "/var/lib", "/run"], FOLDERS, command)
        with process(isolation, home / "smtpd.log", [self.port, self.implicit_port]):
            yield
        loop.call_soon_threadsafe(server.close)

    def _configure(self, behind: int) -> None:
        home, authority = self.place.directory, self.place.authority
        # It takes no key that others can read.
        for name, source in (("server.pem", authority.certificate), ("server.key", authority.key)):
            (home / name).write_bytes(source.read_bytes())
            (home / name).chmod(0o600)
        hash = run(["openssl", "passwd", "-6", "-stdin"], PASSWORD.encode()).decode().strip()
        text = OPENSMTPD.format(
            home=home, port=self.port, implicit_port=self.implicit_port, behind=behind, login=LOGIN, hash=hash
        )
        (home / "smtpd.conf").write_text(text)
        (home / "gate").write_text(GATE.replace("{gate}", shlex.quote(str(self.place.gate))))
        (home / "gate").chmod(0o755)

    def peculiar(self, data: bytes) -> str:
        header = data.partition(b"\r\n\r\n")[0] + b"\r\n"
        if re.search(rb"(?mi)^Bcc:", header):
            return "removes Bcc"
        if re.search(rb"(?mi)^(?:From|To|Cc):[^@\r]*\r$", header):
            return "completes addresses that have no domain"
        return ""

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:
        raw = envelope.original_content or b""
        own = split(raw, b"Received", 1).trace
        # At the end of the header it puts what a mail should have.
        raw = re.sub(rb"(Date: [^\r]+ \(UTC\)\r\n)?Message-ID: <[0-9a-f]{16}@opensmtpd\.test>\r\n(?=\r\n)", b"", raw, count=1)
        self.kept += [(address, ours(raw, own)) for address in envelope.rcpt_tos]
        return "250 2.0.0 kept"

    def arrived(self) -> Iterator[tuple[str, Mail]]:
        return iter(list(self.kept))
