"""Servers with hooks: Haraka with one hook for each stage, and Postfix with a milter that says yes to everything."""

import json
import os
import shutil
import subprocess

import install
import machine
import processes
from servers import BENCHES, Postfix, Server, filled
from work import Cell

CELLS = [Cell(4 << 10, 20), Cell(4 << 10, 100)]


class Haraka(Server):
    name = "Haraka"
    durability = "one fsync for each mail's file, before its 250; one hook for each stage, a process for each core"
    cells = CELLS

    def __init__(self, scratch):
        super().__init__(scratch)
        self.place = install.haraka()

    def prepare(self, sink_port):
        shutil.copytree(BENCHES / "peers/haraka", self.directory, dirs_exist_ok=True)
        values = {"port": self.port, "sink": sink_port, "cores": os.cpu_count()}
        for name in ("config/smtp.ini", "plugins/bench.js"):
            (self.directory / name).write_text(filled(BENCHES / "peers/haraka" / name, **values))
        # Its own, without which it does not answer.
        shutil.copy(self.place / "config/connection.ini", self.directory / "config")
        (self.directory / "queue").mkdir(exist_ok=True)
        return ["node", str(self.place / "bin/haraka"), "-c", str(self.directory)]

    def version(self):
        version = json.loads((self.place / "package.json").read_text())["version"]
        return f"Haraka {version}, Node.js {machine.output_of('node', '--version')}"


class Milter(Postfix):
    name = "Postfix-milter"
    durability = f"{Postfix.durability}; a milter in C on a Unix socket that is asked at every stage"
    cells = CELLS

    def __init__(self, scratch):
        super().__init__(scratch)
        self.program = install.milter()
        self.milter = None

    def prepare(self, sink_port):
        command = super().prepare(sink_port)
        with open(self.directory / "config/main.cf", "a", encoding="ascii") as config:
            config.write(filled(BENCHES / "peers/milter/main.cf", directory=self.directory))
        socket = self.directory / "milter"
        with open(self.directory / "milter-output", "wb") as output:
            self.milter = subprocess.Popen(
                [self.program, f"unix:{socket}"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            processes.wait_until(socket.exists, 10, "the milter does not listen")
        except BaseException:
            self.stop()
            raise
        return command

    def roots(self):
        return [*super().roots(), self.milter.pid]

    def stop(self):
        super().stop()
        if self.milter:
            processes.end(self.milter)
            self.milter = None
