"""The Python of docs/protocol.md: run against a server, with stand-ins for programs."""

import asyncio
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from live_server import FIRST, running

PAGE = Path(__file__).parent.parent / "docs" / "protocol.md"
SIDE = 16
ADDRESS = "http://127.0.0.1:8765/"


def example(heading):
    """The first block of Python behind a heading."""
    text = PAGE.read_text().partition(f"\n{heading}\n")[2]
    return re.search(r"^```python\n(.*?)^```$", text, re.M | re.S)[1]  # type: ignore[index]


def run(heading, tool, **names):
    """Runs an example beside a server, then a tool with what the example defined."""
    names["__name__"] = "example"

    def both(url):
        exec(example(heading).replace(ADDRESS, url), names)
        tool(names)

    async def play():
        async with running(side=SIDE) as server:
            await asyncio.to_thread(both, server.url)

    asyncio.run(play())


def gray(value):
    return np.full((SIDE, SIDE, 3), value, np.uint8)


def test_from_python():
    def look(names):
        assert names["styled"].shape == (SIDE, SIDE, 3)
        assert names["styled"].dtype == np.uint8

    run("## From Python", look, image=gray(9))


class ScriptOp:
    """TouchDesigner gives pixels 0..1, rows from below; these are brighter above."""

    def __init__(self, above):
        self.inputs, self.shown = [self], []
        self.pixels: np.ndarray | None = np.zeros((SIDE, SIDE, 4), np.float32)
        self.pixels[SIDE // 2 :] = above / 255

    def numpyArray(self, delayed):
        return self.pixels if delayed else None

    def copyNumpyArray(self, array):
        assert array.flags.c_contiguous and array.dtype == np.uint8
        self.shown.append(array)


def test_touchdesigner():
    def cook(names):
        node = ScriptOp(above=100)
        with names["stream"] as stream:
            stream.wait_until_ready(10)
            for _ in range(500):
                names["onCook"](node)
                if node.shown:
                    break
                node.pixels = None  # one frame is enough: the fake device adds them up
                asyncio.run(asyncio.sleep(0.01))
        # Of a frame it takes the pixel above and to the left, and adds its prompt.
        assert node.shown[0].mean() == pytest.approx(FIRST + 100, abs=3)

    run("### TouchDesigner", cook)


def test_comfyui(monkeypatch):
    torch = types.SimpleNamespace(from_numpy=lambda array: array)
    monkeypatch.setitem(sys.modules, "torch", torch)

    class Tensor:
        def cpu(self):
            return self

        def numpy(self):
            return np.stack([gray(10), gray(20)]).astype(np.float32) / 255

    def graph(names):
        node = names["NODE_CLASS_MAPPINGS"]["Mirage"]
        inputs = node.INPUT_TYPES()["required"]
        prompt, server = (inputs[name][1]["default"] for name in ("prompt", "server"))
        [styled] = getattr(node(), node.FUNCTION)(Tensor(), prompt, server)
        assert styled.shape == (2, SIDE, SIDE, 3) and styled.dtype == np.float32
        # Frames are styled in order: the fake device adds them up.
        assert 255 * (styled[1] - styled[0]).mean() == pytest.approx(20, abs=2)

    run("### ComfyUI", graph)
