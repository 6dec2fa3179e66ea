"""The command, from its start to SIGTERM."""

import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from toy_model import save_model

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
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
