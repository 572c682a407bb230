"""Resident memory: of the gateway that has just started, and of each connection that does nothing.

An idle connection is one whose client has said EHLO; the clients come from many loopback addresses. What is counted is the
proportional memory (PSS) of the gateway, all of its processes, with the connections less that without.
"""

import resource
import socket
import ssl
import subprocess
import time
from dataclasses import dataclass

import install
from bench import log
from figures import Verdict, median, number, table
from servers import Postern, free_port
from work import Failed

TITLE = "Memory"
SECONDS = 200

START, PLAIN, TLS = "after the start", "idle, plain", "idle, TLS"
CONNECTIONS = 10_000
STARTS = 3
#: KiB for a connection, and MiB after the start.
TARGETS = {PLAIN: 12, TLS: 40}
AFTER_START = 60
#: Seconds in which what comes after the last connection, or the first banner, is over.
REST = 3
MAX_CONNECTIONS = 10_500
#: The gateway wants two of each connection; the clients are ours.
OPEN_FILES = 2 * MAX_CONNECTIONS + 2_000
#: Idle connections are what overload would drop.
SETTINGS = {"server": [f"max_connections = {MAX_CONNECTIONS}", "overload_above = 100"]}


@dataclass
class Row:
    kind: str
    connections: int
    before_mib: float
    after_mib: float

    @property
    def kib_each(self):
        return (self.after_mib - self.before_mib) * 1024 / self.connections


def runs(bench, rows):
    after_start(bench, rows)
    wanted = min(CONNECTIONS, 2_000 if bench.plan.quick else CONNECTIONS, possible_connections())
    for kind in (PLAIN, TLS):
        if bench.plan.is_over():
            break
        rows.append(idle(bench, kind, wanted))
        log(f"{kind}: {rows[-1].kib_each:.1f} KiB each of {wanted} connections")


def after_start(bench, rows):
    gateway = Postern(bench.scratch, bench.program)
    # The first start fills the code cache.
    gateway.start(bench.sink.port)
    gateway.stop()
    for _ in range(STARTS):
        gateway.start(bench.sink.port, keep=True)
        try:
            time.sleep(REST)
            rows.append(Row(START, 0, 0.0, gateway.memory_mib()[0]))
        finally:
            gateway.stop()
        log(f"{START}: {rows[-1].after_mib:.1f} MiB")


def possible_connections():
    """As far as open files go; raises their limit, here and for what is started from now on."""
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
        return CONNECTIONS
    except (ValueError, OSError):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        # Two of each in the gateway, and room for all else that it opens.
        return int(hard / 2 * 0.95)


def idle(bench, kind, wanted):
    gateway = Postern(bench.scratch, bench.program, "Postern-idle", dict(SETTINGS))
    port, context = gateway.port, None
    if kind == TLS:
        port, context = free_port(), client_context()
        gateway.more[""] = listener(port, certificate(bench.scratch))
    clients = []
    gateway.start(bench.sink.port)
    try:
        # What the first connections need once is not theirs.
        connect(clients, 50, port, context)
        time.sleep(REST)
        before = gateway.memory_mib()[0]
        connect(clients, wanted, port, context)
        time.sleep(REST)
        after = gateway.memory_mib()[0]
        if closed := sum(not is_open(client) for client in clients):
            raise Failed(f"{kind}: {closed} of {len(clients)} connections did not stay open")
        return Row(kind, wanted, before, after)
    except OSError as error:
        raise Failed(f"{kind}: connection {len(clients) + 1}: {error}") from error
    finally:
        for client in clients:
            client.close()
        gateway.stop()


def connect(clients, count, port, context):
    """So many more connections, each from another address for 200 of them."""
    for _ in range(count):
        clients.append(connected(address(len(clients)), port, context))


def address(place):
    """One of 127.1.0.1 to 127.1.199.200."""
    return f"127.1.{place // 200 % 200}.{place % 200 + 1}"


def connected(source, port, context):
    client = socket.socket()
    try:
        client.settimeout(20)
        client.bind((source, 0))
        client.connect(("127.0.0.1", port))
        if context:
            client = context.wrap_socket(client)
        expect(client, b"220")
        client.sendall(b"EHLO client.example.org\r\n")
        expect(client, b"250")
        return client
    except BaseException:
        client.close()
        raise


def is_open(client):
    """Nothing has come, neither a 421 nor the end."""
    client.settimeout(0)
    try:
        client.recv(1)
        return False
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    except OSError:
        return False


def expect(client, code):
    """A whole reply; it is small, but may come in pieces."""
    octets = b""
    while not (octets.endswith(b"\r\n") and octets.rpartition(b"\r\n")[0].rpartition(b"\n")[2][3:4] == b" "):
        piece = client.recv(4096)
        if not piece:
            raise ConnectionError("closed by the gateway")
        octets += piece
    if not octets.startswith(code):
        raise ConnectionError(octets.decode(errors="replace").strip())


def client_context():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # It is the gateway's memory that matters.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def certificate(scratch):
    """Paths of a certificate that nobody else trusts, and of its key."""
    install.openssl()
    files = scratch / "certificate.pem", scratch / "key.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    name = ["-subj", "/CN=relay.example.net", "-days", "2"]
    command = ["openssl", "req", "-x509", *curve, *name, "-out", str(files[0]), "-keyout", str(files[1])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"openssl req: {done.stderr.strip()[-300:]}")
    return files


def listener(port, files):
    names = zip(("certificate", "key"), files)
    settings = {"name": "idle", "address": f"127.0.0.1:{port}", "role": "inbound", "tls": "implicit"}
    return ["[[listener]]", *(f'{name} = "{value}"' for name, value in [*settings.items(), *names])]


def text(rows):
    """Memory of the gateway, proportional (PSS)."""
    head = ["", "connections", "MiB before", "MiB after", "KiB for each"]
    lines = []
    for row in rows:
        each = "" if row.kind == START else number(row.kib_each)
        before = "" if row.kind == START else number(row.before_mib)
        lines.append([row.kind, str(row.connections), before, number(row.after_mib), each])
    return "Proportional memory of the gateway, the default chain loaded out of the code cache.\n\n" + table(head, lines)


def verdicts(rows):
    started = median([row for row in rows if row.kind == START], lambda row: row.after_mib)
    found = [Verdict("resident memory, warm code cache, before load", "", "PSS", started, most=AFTER_START, unit=" MiB")]
    for kind, most in TARGETS.items():
        here = [row for row in rows if row.kind == kind]
        work = f"{kind}, {here[0].connections if here else CONNECTIONS} connections"
        value = median(here, lambda row: row.kib_each)
        found.append(Verdict(work, "", "memory of each", value, most=most, unit=" KiB"))
    return found
