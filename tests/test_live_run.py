"""The command, from its start to SIGTERM, and what ends it before that."""

import datetime
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from live_fakes import FakeDevice
from live_server import settings
from render_fakes import NO_MODEL
from toy_model import save_model
from video_clips import counting, write_clip

from mirage_jax.errors import MirageError
from mirage_jax.live import run
from mirage_jax.live.log import log_to_stderr

ROOT = Path(__file__).parent.parent


def test_serves_until_a_signal(tmp_path):
    """Ctrl-C while the model is compiled, and SIGTERM when it runs."""
    save_model(tmp_path)
    begin_and_end(tmp_path, signal.SIGINT, wait_until_ready=False)
    begin_and_end(tmp_path, signal.SIGTERM, wait_until_ready=True)


def begin_and_end(model, number, wait_until_ready):
    process = subprocess.Popen(
        [
            sys.executable,
            "main.py",
            "--config=configs/live.py",
            f"--config.model={model}",
            "--config.cpu_size=64",
            "--config.port=0",
            "--config.browser=False",
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    killer = threading.Timer(240, process.kill)  # the reads below then end
    killer.start()
    try:
        assert process.stdout is not None
        lines: list[str] = []
        while not (lines and "page " in lines[-1]):
            line = process.stdout.readline()
            assert line, lines
            lines.append(line)
        page = re.search(r"http://127\.0\.0\.1:\d+/", lines[-1])
        assert page, lines
        assert "token" not in lines[-1]
        while wait_until_ready and health(f"{page[0]}healthz") != 200:
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(number)
        rest, _ = process.communicate()
    finally:
        killer.cancel()
        process.kill()
    assert process.returncode == 0, rest
    assert "Traceback" not in rest
    assert ("ready after" in rest) or not wait_until_ready


def health(url):
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:  # it may be compiling
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture
def serve(monkeypatch, tmp_path):
    """`run_live` with a fake device, which can fail; a browser that opens ends it.

    Returns the addresses that were opened.
    """
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(run, "log_to_stderr", lambda form: None)

    def call(error=None, **changes):
        device, opened = FakeDevice(), []
        device.open_error = error

        def browse(url):
            opened.append(url)
            os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(run, "SeatedStreams", lambda *_: device)
        monkeypatch.setattr(run.webbrowser, "open", browse)
        run.run_live(settings(**{"browser": True} | changes), NO_MODEL)
        return opened

    return call


def test_a_browser_opens_on_the_page_of_this_machine(serve, capsys, monkeypatch):
    monkeypatch.setenv("DISPLAY", ":97")
    [page] = serve()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", page)
    told = capsys.readouterr().out
    assert f"page          {page}\n" in told
    assert "certificate" not in told and "#" not in told


def test_other_machines_need_the_token_and_see_the_certificate(
    serve, capsys, monkeypatch
):
    monkeypatch.setenv("DISPLAY", ":97")
    [page] = serve(host="0.0.0.0", names=" studio.lan, ")
    assert re.fullmatch(r"https://[^/]+:\d+/#token=[\w-]{32}", page)
    assert "0.0.0.0" not in page, "nobody else could go there"
    told = capsys.readouterr().out
    assert re.search(r"^certificate   own, SHA-256 ([0-9A-F]{2}:){31}", told, re.M)
    assert f"page          {page}\n" in told


def test_a_source_is_served_without_a_browser(serve, capsys, monkeypatch, tmp_path):
    """Its addresses are shown instead, and its end is the server's."""
    monkeypatch.setenv("DISPLAY", ":97")
    write_clip(tmp_path / "a.mp4", counting(64, 64), frames=2)
    assert not serve(source=str(tmp_path / "a.mp4"), source_key="k" * 16)
    told = capsys.readouterr().out
    url = r"http://127\.0\.0\.1:\d+"
    assert re.search(rf"^view +{url}/view/source#key=k{{16}}$", told, re.M)
    assert re.search(rf"^MJPEG +{url}/streams/source\.mjpeg\?key=k{{16}}$", told, re.M)


@pytest.fixture
def project_log(monkeypatch):
    """The project's log without handlers, as a command finds it."""
    log = logging.getLogger("mirage_jax")
    monkeypatch.setattr(log, "handlers", [])
    monkeypatch.setattr(log, "propagate", True)
    yield log
    log.setLevel(logging.NOTSET)


def test_the_log_is_text_for_people_or_an_object_a_line(project_log, capsys):
    server = logging.getLogger("mirage_jax.live.session")
    source = logging.getLogger("mirage_jax.video.network")
    for form in ("text", "json"):
        log_to_stderr(form)
        server.info("a client was refused: %s", "too late\nby far")
        server.debug("not told")
        try:
            raise ValueError("no such thing")
        except ValueError:
            source.exception("the source failed")
    told = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"[\d-]+ [\d:,]+ a client was refused: too late", told[0])
    refused, failed = map(json.loads, told[-2:])
    at = datetime.datetime.fromisoformat(refused.pop("time"))
    assert abs(at - datetime.datetime.now(datetime.UTC)) < datetime.timedelta(minutes=5)
    assert refused["level"] == "info"
    assert refused["event"] == "a client was refused: too late\nby far"
    assert (failed["level"], failed["event"]) == ("error", "the source failed")
    assert "ValueError: no such thing" in failed["error"]


@pytest.mark.parametrize("setting", ["log", "transport", "lost"])
def test_choices_that_do_not_exist_are_named(setting):
    with pytest.raises(MirageError, match=f"{setting}='fax': choose one of"):
        settings(**{setting: "fax"})


def test_a_device_without_room_ends_the_command(serve):
    with pytest.raises(MirageError, match="no room for 2 streams"):
        serve(error=MirageError("no room for 2 streams"))


def test_an_address_that_is_taken_is_named(serve):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            MirageError, match=rf"cannot listen at 127\.0\.0\.1:{port} "
        ):
            serve(port=port)


def test_recordings_that_cannot_be_written_are_named_before_a_stream(serve, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MirageError, match="file"):
        serve(recordings=str(tmp_path / "file" / "folder"))


@pytest.mark.parametrize(
    ("host", "secure", "url"),
    [
        ("127.0.0.1", False, "http://127.0.0.1:8765/"),
        ("::1", False, "http://[::1]:8765/"),
        ("studio.lan", True, "https://studio.lan:8765/"),
    ],
)
def test_addresses_as_a_browser_wants_them(host, secure, url):
    assert run.page_url(settings(host=host, token="t" * 16), secure, 8765) == url


def test_a_machine_without_a_network_is_called_by_its_name(monkeypatch):
    class Unreachable(socket.socket):
        def connect(self, address):
            raise OSError("Network is unreachable")

    monkeypatch.setattr(run.socket, "socket", Unreachable)
    assert run.public_address("0.0.0.0") == socket.gethostname()


@pytest.mark.parametrize(
    ("system", "display", "opens"),
    [("linux", "", False), ("linux", ":0", True), ("darwin", "", True)],
)
def test_a_browser_opens_where_somebody_sees_it(monkeypatch, system, display, opens):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert run._has_screen() is opens


def test_certificates_that_are_given_are_taken():
    given = settings(host="0.0.0.0", certificate="a.pem", key="b.pem")
    assert run.certificate_files(given, []) == ("a.pem", "b.pem")
