"""A real Postfix: as a server for the gateway, and as a client that has the gateway for its relay host."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import smtplib
from collections.abc import Iterator
from pathlib import Path

import gateway
from gateway import Gateway, Mail, split
from harness import LOOPBACK, free_port, is_open, run, wait_for
from network import serve_login, serve_policy
from servers import Place, Server, ours

MAIN = """
compatibility_level = 3.6
queue_directory = {home}/queue
data_directory = {home}/data
maillog_file = {home}/mail.log
maillog_file_prefixes = {home}
myhostname = postfix.test
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
alias_maps =
alias_database =
local_recipient_maps =
smtpd_recipient_restrictions =
    check_recipient_access regexp:{{{{/^nobody/ 550 5.1.1 no such user}}}}
    check_policy_service inet:127.0.0.1:{policy}
    permit_mynetworks
    reject

# A relay's part is to change nothing.
local_header_rewrite_clients =
message_drop_headers =
message_size_limit = 60000000
mailbox_size_limit = 0
virtual_mailbox_limit = 0
default_destination_concurrency_limit = 20
# Of the client's address, which is that of all tests.
smtpd_client_connection_count_limit = 0

# As a server.
smtpd_tls_security_level = may
smtpd_tls_cert_file = {authority.certificate}
smtpd_tls_key_file = {authority.key}
smtpd_tls_received_header = yes
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = inet:127.0.0.1:{login}
smtpd_sasl_authenticated_header = yes
smtpd_tls_auth_only = yes
virtual_mailbox_domains = {domains}
virtual_mailbox_base = {home}/mail
virtual_mailbox_maps = static:box/
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}

# As a client.
smtp_dns_support_level = disabled
smtp_host_lookup = native
smtp_tls_CAfile = {authority.authority}
smtp_tls_session_cache_database =
smtp_sasl_password_maps = static:{user}:{password}
smtp_sasl_security_options = noanonymous
transport_maps = texthash:{home}/etc/transport
minimal_backoff_time = 5s
"""

MASTER = """
{port} inet n - n - - smtpd
{implicit_port} inet n - n - - smtpd
  -o smtpd_tls_wrappermode=yes
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
smtp-plain unix - - n - - smtp
  -o smtp_tls_security_level=none
smtp-starttls unix - - n - - smtp
  -o smtp_tls_security_level=secure -o smtp_tls_secure_cert_match=localhost
smtp-implicit unix - - n - - smtp
  -o smtp_tls_security_level=secure -o smtp_tls_secure_cert_match=localhost -o smtp_tls_wrappermode=yes
  -o smtp_sasl_auth_enable=yes
smtp-auth-plain unix - - n - - smtp
  -o smtp_tls_security_level=secure -o smtp_tls_secure_cert_match=localhost
  -o smtp_sasl_auth_enable=yes -o smtp_sasl_mechanism_filter=plain
smtp-auth-login unix - - n - - smtp
  -o smtp_tls_security_level=secure -o smtp_tls_secure_cert_match=localhost
  -o smtp_sasl_auth_enable=yes -o smtp_sasl_mechanism_filter=login
"""

# Of each service of ours in master.cf, the gateway's listener. What goes to SERVICE.box.test takes this way.
CLIENTS = {
    "plain": "plain",
    "starttls": "mx",
    "implicit": "submissions",
    "auth-plain": "submission",
    "auth-login": "submission",
}


class Postfix(Server):
    name = "postfix"
    offers = frozenset({"PIPELINING", "8BITMIME", "SMTPUTF8", "STARTTLS", "DSN", "CHUNKING"})

    @contextlib.contextmanager
    def serve(self) -> Iterator[None]:
        home = self.place.directory
        for name in ("etc", "queue", "data", "mail"):
            (home / name).mkdir()
        owner = "postfix"
        shutil.chown(home / "data", owner)
        shutil.chown(home / "mail", owner)
        self._configure(owner)
        # The files of its own folders, owners and rights: made by its own script.
        command = ["postfix", "-c", home / "etc", "start"]
        run(command)
        try:
            wait_for("Postfix to listen", lambda: is_open(self.port) and is_open(self.implicit_port))
            yield
        finally:
            self._stop(home / "queue" / "pid" / "master.pid")

    def _configure(self, owner: str) -> None:
        home = self.place.directory
        main = MAIN.format(
            home=home,
            authority=self.place.authority,
            policy=serve_policy(self.place.background, self.place.gate),
            login=serve_login(self.place.background),
            domains=" ".join(self.domain(way) for way in self.ways),
            uid=Path(home / "mail").stat().st_uid,
            gid=max(Path(home / "mail").stat().st_gid, 100),
            user=gateway.LOGIN,
            password=gateway.PASSWORD,
        )
        (home / "etc" / "main.cf").write_text(main)
        (home / "etc" / "master.cf").write_text(MASTER.format(port=self.port, implicit_port=self.implicit_port))
        (home / "etc" / "transport").write_text("")

    @staticmethod
    def _stop(pid_file: Path) -> None:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            pid = int(pid_file.read_text())
            os.kill(pid, signal.SIGTERM)
            wait_for("Postfix to end", lambda: not Path(f"/proc/{pid}").exists())

    def arrived(self) -> Iterator[tuple[str, Mail]]:
        for file in sorted((self.place.directory / "mail" / "box" / "new").glob("*")):
            raw = file.read_bytes().replace(b"\n", b"\r\n")
            above = split(raw, b"Return-Path|X-Original-To|Delivered-To", 3).trace
            own = split(raw[len(above) :], b"Received", 1).trace
            address = re.search(rb"Delivered-To: (\S+)", above)
            yield address.group(1).decode() if address else "", ours(raw, above + own)

    def point_at(self, gateway: Gateway) -> None:
        """From now on, mail to SERVICE.box.test goes to this gateway."""
        routes = [f"{name}.box.test smtp-{name}:[{LOOPBACK}]:{gateway.ports[to]}\n" for name, to in CLIENTS.items()]
        (self.place.directory / "etc" / "transport").write_text("".join(routes))
        run(["postfix", "-c", self.place.directory / "etc", "reload"])

    def relay(self, sender: str, recipients: list[str], data: bytes, options: list[str]) -> None:
        """Gives it a mail, which it sends on."""
        with smtplib.SMTP(LOOPBACK, self.port, timeout=30) as client:
            client.sendmail(sender, recipients, data, options)


def make(place: Place) -> Postfix:
    return Postfix(place, free_port(), free_port())
