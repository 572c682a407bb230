"""The servers that are compared: each starts in a directory of its own and relays example.com to the sink."""

import os
import pwd
import shutil
import socket
import string
import subprocess
import tomllib
from pathlib import Path

import machine
import processes

BENCHES = Path(__file__).resolve().parent.parent


class NotReady(Exception):
    """Something that the comparison needs is not there; the text says what to do."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_up(port):
    """True when a 220 comes."""
    try:
        with socket.create_connection(("127.0.0.1", port), 2) as client:
            client.settimeout(5)
            ready = client.recv(512).startswith(b"220")
            client.sendall(b"QUIT\r\n")
            client.recv(512)
            return ready
    except OSError:
        return False


def filled(path, **values):
    """A committed config with its ${names} put in."""
    return string.Template(path.read_text()).substitute(values)


class Server:
    name = ""
    durability = ""
    #: The cells that it is measured in; `None`: all.
    cells = None
    #: What its environment has beside ours.
    environment = {}

    def __init__(self, scratch):
        self.directory = Path(scratch) / self.name.lower()
        self.port = free_port()
        self.process = None

    def start(self, sink_port, keep=False):
        """Returns when it answers. `keep`: with the files of the last time."""
        self.launch(sink_port, keep)
        try:
            processes.wait_until(self.is_up, 30, f"{self.name} does not answer")
        except BaseException as error:
            self.stop()
            if isinstance(error, TimeoutError):
                raise NotReady(f"{error}:\n{self.output()}") from error
            raise

    def launch(self, sink_port, keep=False):
        if not keep:
            shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True, exist_ok=True)
        command = self.prepare(sink_port)
        # What it says goes to a file: a pipe that nobody reads would stop it.
        with open(self.directory / "output", "wb") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )

    def is_up(self):
        if self.process.poll() is not None:
            raise NotReady(f"{self.name} has ended:\n{self.output()}")
        return is_up(self.port)

    def stop(self):
        if self.process:
            processes.end(self.process, self.root())
            self.process = None

    def root(self):
        return self.process.pid

    def roots(self):
        """Of all its processes: they and what is below them are what it costs."""
        return [self.root()]

    def memory_mib(self):
        """Proportional and plain resident memory."""
        return processes.memory_mib(*self.roots())

    def output(self):
        return (self.directory / "output").read_text(errors="replace")[-2000:]


class Postern(Server):
    name = "Postern"
    durability = "one fdatasync for all mails that wait, before their 250"

    def __init__(self, scratch, program, name=None, more=None, environment=None):
        """`more`: lines for tables of the config by the table's name, and with the name "" for its end."""
        self.name = name or self.name
        self.more = more or {}
        self.environment = environment or {}
        super().__init__(scratch)
        self.program = str(Path(program).resolve())
        if not os.access(self.program, os.X_OK):
            raise NotReady(f"There is no {program}. `make bench` builds it.")
        check_chain()

    @property
    def config(self):
        return self.directory / "postern.toml"

    def prepare(self, sink_port):
        (self.directory / "spool").mkdir(exist_ok=True)
        text = filled(BENCHES / "postern.toml", port=self.port, sink=sink_port)
        for name, lines in self.more.items():
            text = with_lines(text, name, string.Template("\n".join(lines)).substitute(sink=sink_port))
        self.config.write_text(text)
        return [self.program, "--config", str(self.config), "serve"]

    def ask(self, *arguments):
        """Runs `postern …` against this gateway; what it prints."""
        command = [self.program, "--config", str(self.config), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def version(self):
        return machine.output_of(self.program, "--version")


def with_lines(config, table, lines):
    """The config with more lines in a table, which is made at its end when it is not there."""
    head = f"[{table}]\n"
    if table and f"\n{head}" in config:
        return config.replace(f"\n{head}", f"\n{head}{lines}\n", 1)
    return f"{config}\n{head if table else ''}{lines}\n"


def check_chain():
    """The chain measured is the one that is in force where a config has none."""
    measured = tomllib.loads(filled(BENCHES / "postern.toml", port=1, sink=1)).get("chain")
    if measured is not None:
        raise NotReady(f"benches/postern.toml has the chain {measured}: it must have none, then it is the default one.")


class Postfix(Server):
    name = "Postfix"
    durability = "one fsync for each mail's file, before its 250"

    def __init__(self, scratch):
        super().__init__(scratch)
        if os.geteuid() != 0:
            raise NotReady("Postfix starts only as root: sudo make bench. SERVERS=postern measures without it.")
        self.postfix = shutil.which("postfix", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

    def prepare(self, sink_port):
        config, queue, data = (self.directory / name for name in ("config", "queue", "data"))
        for directory in (config, queue, data):
            directory.mkdir()
        os.chown(data, pwd.getpwnam("postfix").pw_uid, -1)
        values = {
            "directory": self.directory,
            "commands": Path(self.postfix).parent,
            "daemons": self.setting("daemon_directory"),
            "port": self.port,
            "sink": sink_port,
        }
        for name in ("main.cf", "master.cf"):
            (config / name).write_text(filled(BENCHES / "peers/postfix" / name, **values))
        return [self.postfix, "-c", str(config), "start-fg"]

    def root(self):
        """The master; what was started only waits for it."""
        try:
            return int((self.directory / "queue/pid/master.pid").read_text())
        except (OSError, ValueError):
            return self.process.pid

    def setting(self, name):
        """As this Postfix was built, whatever its own main.cf says."""
        return machine.output_of("postconf", "-d", "-h", name)

    def version(self):
        return f"Postfix {self.setting('mail_version')}"
