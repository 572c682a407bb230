"""clamd and rspamd from Debian's packages, unpacked; each with a config, signatures and rules of its own."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness import INSTALLED, LOOPBACK, free_port, process, run, wait_for

UNPACKED = INSTALLED / "scanners"

# In two halves: this file is not to be found by others' scanners.
EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}" + b"$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
# What rspamd has built in for tests: it proposes to reject such a mail.
GTUBE = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*" + b"GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"

CLAMD = """
Foreground yes
LocalSocket {directory}/clamd.ctl
TCPSocket {port}
TCPAddr {loopback}
DatabaseDirectory {directory}/db
LogFile {directory}/clamd.log
StreamMaxLength 1M
"""

RSPAMD = """
options {{
  pidfile = "{directory}/rspamd.pid";
  filters = "";
  tempdir = "{directory}";
  url_tld = "{directory}/tlds";
  control_socket = "{directory}/rspamd.sock mode=0600";
  dns {{ nameserver = ["{loopback}:1"]; timeout = 1s; retransmits = 1; }}
}}
logging {{ type = "file"; filename = "{directory}/rspamd.log"; }}
worker "normal" {{ bind_socket = "{loopback}:{port}"; count = 1; }}
actions {{ reject = 15; add_header = 6; }}
lua = "{directory}/rules.lua";
"""

# A symbol for what it was told of client and envelope, by name; one that makes a mail spam.
RULES = """
local function told(task)
  local from, rcpts = task:get_from("smtp"), task:get_recipients("smtp")
  local all = {}
  for _, rcpt in ipairs(rcpts or {}) do table.insert(all, rcpt.addr) end
  return {
    IP = tostring(task:get_ip()), HELO = task:get_helo(), USER = task:get_user(), FROM = from and from[1].addr,
    RCPT = table.concat(all, ","), QUEUE = task:get_queue_id(),
  }
end
for name, expected in pairs({ IP = "127.0.0.1", HELO = "client.test", FROM = "a@far.test",
                              RCPT = "one@scanned.test,two@scanned.test", QUEUE = "." }) do
  rspamd_config:register_symbol({
    name = "TOLD_" .. name, score = 0.1, type = "normal",
    callback = function(task)
      local said = told(task)[name]
      return said ~= nil and (said == expected or expected == "." and said ~= "undef" and #said > 0)
    end,
  })
end
rspamd_config:register_symbol({
  name = "SUBJECT_CHEAP", score = 7.0, type = "normal",
  callback = function(task) return (task:get_subject() or ""):find("cheap") ~= nil end,
})
"""


@dataclass
class Clamd:
    directory: Path
    port: int = field(default_factory=free_port)

    @property
    def socket(self) -> Path:
        return self.directory / "clamd.ctl"

    @contextlib.contextmanager
    def run(self) -> Iterator[Clamd]:
        """Its only signatures are the test file's: by hash as a file of its own, by content within anything."""
        database = self.directory / "db"
        database.mkdir(parents=True)
        digest = hashlib.md5(EICAR, usedforsecurity=False).hexdigest()
        (database / "test.hdb").write_text(f"{digest}:{len(EICAR)}:Test.Hash\n")
        (database / "test.ndb").write_text(f"Test.Content:0:*:{(b'CONTENT-' + EICAR).hex()}\n")
        config = self.directory / "clamd.conf"
        config.write_text(CLAMD.format(directory=self.directory, port=self.port, loopback=LOOPBACK))
        command = [UNPACKED / "usr/sbin/clamd", "--config-file", config]
        with process(command, self.directory / "clamd.out", [self.port]):
            yield self


@dataclass
class Rspamd:
    directory: Path
    port: int = field(default_factory=free_port)

    @contextlib.contextmanager
    def run(self) -> Iterator[Rspamd]:
        self.directory.mkdir()
        (self.directory / "rules.lua").write_text(RULES)
        (self.directory / "tlds").write_text("test\nexample\n")
        config = self.directory / "rspamd.conf"
        config.write_text(RSPAMD.format(directory=self.directory, port=self.port, loopback=LOOPBACK))
        lua = UNPACKED / "usr/share/rspamd/lualib"
        environment = [
            f"LD_LIBRARY_PATH={UNPACKED / 'usr/lib/rspamd'}",
            f"LUA_PATH={lua}/?.lua;{lua}/?/init.lua;;",
        ]
        # As who runs the tests: there is no user _rspamd here.
        command = ["env", *environment, UNPACKED / "usr/bin/rspamd", "-f", "-i", "-c", config]
        user = run(["id", "-un"]).decode().strip(), run(["id", "-gn"]).decode().strip()
        with process([*command, "-u", user[0], "-g", user[1]], self.directory / "rspamd.out", [self.port]):
            yield self

    def log(self) -> str:
        log = self.directory / "rspamd.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def wait_for_log(self, text: str) -> None:
        wait_for(f"{text!r} in rspamd's log", lambda: text in self.log())
