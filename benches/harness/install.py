"""What the bench needs and what is missing: from Debian, and Haraka from npm."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench import log
from servers import BENCHES, NotReady

#: Of everything that is made here.
PLACE = BENCHES.parent / "target/bench"
HARAKA = PLACE / "haraka"


def packages(names, why):
    """Debian's packages, as root."""
    advice = f"{why}: apt-get install --no-install-recommends {' '.join(names)}"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise NotReady(advice)
    log(f"installing {' '.join(names)}")
    # Without a config of its own Debian doesn't start Postfix: nothing listens on port 25 because somebody measured.
    subprocess.run(
        ["debconf-set-selections"],
        input="postfix postfix/main_mailer_type select No configuration\n",
        text=True,
        check=False,
    )
    for command in (["update"], ["install", "-y", "--no-install-recommends", "--no-remove", *names]):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        if subprocess.run(["apt-get", *command], env=environment, stdout=sys.stderr, check=False).returncode:
            raise NotReady(advice)


def postfix():
    """smtp-source and smtp-sink come with it, too."""
    if not all(map(shutil.which, ("postfix", "postconf", "smtp-source", "smtp-sink"))):
        packages(["postfix"], "Debian's package postfix is needed")


def openssl():
    if not shutil.which("openssl"):
        packages(["openssl"], "openssl makes the certificate for TLS")


def haraka():
    """Where it is."""
    if not all(map(shutil.which, ("node", "npm"))):
        packages(["nodejs", "npm"], "Haraka needs Node.js")
    wanted = (BENCHES / "peers/haraka/package.json").read_bytes()
    seen = HARAKA / ".installed"
    if not seen.exists() or seen.read_bytes() != wanted:
        log("installing Haraka from npm")
        shutil.rmtree(HARAKA, ignore_errors=True)
        HARAKA.mkdir(parents=True)
        (HARAKA / "package.json").write_bytes(wanted)
        quiet = ["--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error"]
        run(["npm", "install", "--ignore-scripts", "--omit=optional", *quiet], "npm could not install Haraka", HARAKA)
        seen.write_bytes(wanted)
    return HARAKA / "node_modules/Haraka"


def compiled(source, *options):
    """A C program of ours."""
    if not shutil.which("cc"):
        packages(["gcc", "libc6-dev"], "a C compiler is needed")
    PLACE.mkdir(parents=True, exist_ok=True)
    program = PLACE / source.stem
    run(["cc", "-O2", "-o", str(program), str(source), *options], f"{source.name} can't be compiled")
    return program


def milter():
    if not Path("/usr/include/libmilter/mfapi.h").exists():
        packages(["libmilter-dev"], "the milter needs Debian's package libmilter-dev")
    return compiled(BENCHES / "peers/milter/milter.c", "-lmilter", "-lpthread")


def run(command, trouble, directory=None):
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired:
        raise NotReady(f"{trouble}: it took too long") from None
    if done.returncode:
        raise NotReady(f"{trouble}: {done.stderr.strip()[-500:]}")
