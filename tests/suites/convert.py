"""Makes JSON of the suites, so that the tests need no reader of YAML; signs mails with dkimpy and opendkim for them.

Octets of DNS texts are Latin-1 characters in the JSON.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

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


def write(name, value):
    (PLACE / name).write_text(json.dumps(value, indent=1))


write("spf.json", spf())
write("arc.json", arc())
