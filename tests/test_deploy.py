"""What deploy/ says fits this repository; neither Docker nor systemd is needed."""

import configparser
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from configs import live

ROOT = Path(__file__).parent.parent
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
IGNORE = ROOT / "deploy" / "Dockerfile.dockerignore"
UNIT = ROOT / "deploy" / "mirage-live.service"
KNOWN = set("FROM ARG ENV WORKDIR COPY RUN USER VOLUME EXPOSE STOPSIGNAL".split())
KNOWN |= {"HEALTHCHECK", "ENTRYPOINT"}


def instructions():
    """(name, rest) of the Dockerfile, lines that go on joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    joined = re.sub(r"\\\n\s*", "", text)
    return [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]


def unit():
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(UNIT.read_text())
    return parser


def check_command(words):
    """A command of main.py with a config and settings that there are."""
    assert words[:2] == ["main.py", "--config=configs/live.py"]
    config = live.get_config()
    for word in words[2:]:
        name, _, value = word.removeprefix("--config.").partition("=")
        assert name in config, word
        assert isinstance(config[name], bool) or isinstance(config[name], str)
        if isinstance(config[name], bool):
            assert value in ("True", "False")


def test_the_image_is_made_of_what_is_there():
    found = instructions()
    assert found[0][0] == "FROM"
    assert {name for name, _ in found} <= KNOWN
    kept = [line[1:] for line in IGNORE.read_text().splitlines() if line[:1] == "!"]
    for name, rest in found:
        if name == "COPY":
            for source in rest.split()[:-1]:
                assert list(ROOT.glob(source)), source
                assert source in kept
    [argument] = [rest for name, rest in found if name == "ARG"]
    assert (ROOT / argument.partition("=")[2]).exists()
    version = re.search(r"python:3\.(\d+)", found[0][1])
    assert version and 11 <= int(version[1]) <= 12


def test_the_image_runs_the_server_and_not_as_root():
    found = instructions()
    by_name = dict(found)
    words = json.loads(by_name["ENTRYPOINT"])
    assert words[0] == "python"
    check_command(words[1:])
    assert by_name["EXPOSE"] == str(live.get_config().port)
    names = [name for name, _ in found]
    assert names.index("USER") < names.index("ENTRYPOINT")
    check = json.loads(by_name["HEALTHCHECK"].partition("CMD ")[2])
    compile(check[2], "healthcheck", "exec")
    assert f":{live.get_config().port}/healthz" in check[2]


def test_the_unit_starts_the_server_and_may_write_where_it_says():
    service = unit()["Service"]
    command = shlex.split(service["ExecStart"])
    assert command[0].startswith(service["WorkingDirectory"] + "/.venv/bin/python")
    check_command(command[1:])
    assert service["ProtectSystem"] == "strict"
    assert service["StateDirectory"] == service["CacheDirectory"] == "mirage"
    folders = dict(pair.split("=") for pair in service["Environment"].split())
    assert folders["XDG_STATE_HOME"] == "/var/lib/mirage"
    assert folders["XDG_CACHE_HOME"] == "/var/cache/mirage"
    assert int(service["TimeoutStopSec"]) > 20  # the server's own patience, and more


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd")
def test_systemd_takes_the_unit():
    run = subprocess.run(
        ["systemd-analyze", "verify", str(UNIT)], capture_output=True, text=True
    )
    ours = [line for line in run.stderr.splitlines() if UNIT.name in line]
    assert not [line for line in ours if "is not executable" not in line], run.stderr
