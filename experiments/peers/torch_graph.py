"""PyTorch at its quickest: compiled functions, recorded into one CUDA graph a frame."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

REHEARSALS = 3  # calls that compile, and choose algorithms, before recording


def prepare(on_gpu: bool) -> str:
    """Settings of a process that infers only; the device's name for PyTorch."""
    if not on_gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True  # measures which convolution is quickest
    return "cuda" if on_gpu else "cpu"


def versions() -> dict[str, Any]:
    """What ran, and on what."""
    setup = {"torch": torch.__version__, "cuda": torch.version.cuda}
    if torch.cuda.is_available():
        setup |= {
            "torch_device": torch.cuda.get_device_name(),
            "cudnn": torch.backends.cudnn.version(),
        }
    return setup


def compiled(function: Callable[..., Any], mode: str) -> Callable[..., Any]:
    """`torch.compile` of a function without a break in its graph.

    Args:
      function: is compiled when it is called first.
      mode: of `torch.compile`; "eager" traces it and leaves the operations as they
        are, for machines without a compiler.
    """
    if mode == "eager":
        whole = torch.compile(function, fullgraph=True, dynamic=False, backend="eager")
    else:
        whole = torch.compile(function, fullgraph=True, dynamic=False, mode=mode)
    called: Callable[..., Any] = whole
    return called


def recorded(run: Callable[[], Any]) -> Callable[[], Any]:
    """The same as one CUDA graph: a call launches it, the results lie where they lay.

    What `torch.compile(mode="reduce-overhead")` does by itself for functions that keep
    no state; `run` may write into tensors of its own. Without a GPU it stays as it is.
    """
    if not torch.cuda.is_available():
        return run
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(REHEARSALS):
            run()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    return partial(_replay, graph, result, run)


def _replay(graph: Any, result: Any, _: Callable[[], Any]) -> Any:
    """Keeps what was recorded, too: the graph reads tensors that it alone may hold."""
    graph.replay()
    return result


def wait(_: Any) -> None:
    """Until the device has nothing left to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
