"""What all tests share: the peers and the gateway, started once; and the table at the end."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import postfix
from clients import CLIENTS, Client
from gateway import Gateway
from harness import Authority
from matrix import FAILED, OK, SKIPPED, Table
from network import Background, Tap
from servers import Aiosmtpd, Place, Server, Sink
from unpacked import Exim, OpenSmtpd, can_isolate

SERVERS: tuple[type[Server], ...] = (Sink, Aiosmtpd, postfix.Postfix, Exim, OpenSmtpd)
ISOLATED = (Exim, OpenSmtpd)

# Who is told to end, ends what it started.
signal.signal(signal.SIGTERM, signal.default_int_handler)

tables = {
    "clients": Table("Clients that send into the gateway"),
    "servers": Table("Servers that receive from the gateway"),
}


@dataclass
class World:
    """Everything that runs."""

    gateway: Gateway
    servers: dict[str, Server]
    # Of the servers that did not start.
    faults: dict[str, str]
    # Before the gateway's listener without TLS.
    tap: Tap


@pytest.fixture(scope="session")
def directory() -> Iterator[Path]:
    """Open to the users as which Postfix and others run; its path is short, for the sockets in it."""
    with tempfile.TemporaryDirectory(prefix="peers-", ignore_cleanup_errors=True) as name:
        path = Path(name)
        path.chmod(0o755)
        yield path
        if keep := os.environ.get("PEERS_KEEP"):
            shutil.copytree(path, keep, ignore=shutil.ignore_patterns("queue", "spool", "data"))


@pytest.fixture(scope="session")
def world(directory: Path) -> Iterator[World]:
    with contextlib.ExitStack() as stack:
        background = stack.enter_context(Background())
        (directory / "tls").mkdir()
        authority = Authority.make(directory / "tls")
        servers, faults = {}, {}
        for kind in SERVERS:
            if kind in ISOLATED and not can_isolate():
                faults[kind.name] = "this machine gives no mount namespace; run as root, with CAP_SYS_ADMIN"
                continue
            home = directory / kind.name
            home.mkdir()
            server = kind(Place(home, authority, background))
            try:
                stack.enter_context(server.run())
                servers[kind.name] = server
            except Exception as fault:  # noqa: BLE001 - the tests of this server tell it
                faults[kind.name] = f"{kind.name} did not start: {fault}"
        (directory / "gateway").mkdir()
        gateway = Gateway(directory / "gateway", authority)
        try:
            stack.enter_context(gateway.run("".join(server.tenants() for server in servers.values())))
        except Exception as fault:  # noqa: BLE001 - no test can be run without it
            pytest.exit(f"the gateway did not start: {fault}", returncode=1)
        tap = Tap(background, gateway.ports["plain"])
        gateway.ports["plain"] = tap.port
        match servers.get("postfix"):
            case postfix.Postfix() as peer:
                peer.point_at(gateway)
        yield World(gateway, servers, faults, tap)


@pytest.fixture
def gateway(world: World) -> Gateway:
    return world.gateway


@pytest.fixture
def server(kind: type[Server], world: World) -> Server:
    """Of a test that is parametrized by `kind`."""
    name = kind.name
    if name in world.faults:
        (pytest.skip if "namespace" in world.faults[name] else pytest.fail)(world.faults[name])
    return world.servers[name]


@pytest.fixture
def client(client_kind: type[Client], world: World) -> Client:
    """Of a test that is parametrized by `client_kind`."""
    peer = world.servers.get("postfix")
    assert isinstance(peer, postfix.Postfix), world.faults.get("postfix")
    return client_kind(world.gateway, peer)


_tokens = itertools.count(1)


@pytest.fixture
def token() -> str:
    """Goes into the addresses of one test, and is in no other's."""
    return f"t{next(_tokens)}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test marked `cell(table, column)` is a cell of that table; without a column its parameter `case` is that."""
    report = yield
    marker = item.get_closest_marker("cell")
    if marker and (report.when == "call" or report.outcome != "passed"):
        assert isinstance(item, pytest.Function)
        parameters = item.callspec.params
        table, column = (*marker.args, parameters.get("case"))[:2]
        row: Any = parameters.get("kind") or parameters["client_kind"]
        result = {"passed": OK, "skipped": SKIPPED}.get(report.outcome, FAILED)
        tables[table].add(row.name, str(column), result)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for table, rows in (("clients", CLIENTS), ("servers", SERVERS)):
        if not tables[table].cells:
            continue
        for row in rows:
            for column, reason in row.cannot.items():
                tables[table].reasons[row.name, column] = reason
        terminalreporter.write_line("")
        for line in tables[table].lines():
            terminalreporter.write_line(line)
