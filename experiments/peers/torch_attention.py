"""Which of PyTorch's attentions is the quickest at a rival's shapes."""

import functools
import time

import torch
import torch.nn.functional as F

from experiments.peers.torch_graph import recorded, wait

CALLS = 30  # in one graph, as in a pass
REPEATS = 5
SWITCHES = {
    "flash": torch.backends.cuda.enable_flash_sdp,
    "efficient": torch.backends.cuda.enable_mem_efficient_sdp,
    "cudnn": torch.backends.cuda.enable_cudnn_sdp,
    "math": torch.backends.cuda.enable_math_sdp,
}


def allow(*names: str) -> None:
    """Leaves `scaled_dot_product_attention` these to choose from, in this process."""
    for name, switch in SWITCHES.items():
        switch(name in names)


def choose_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None
) -> str:
    """Times each that takes the operands, and leaves the quickest alone allowed.

    PyTorch itself goes by a fixed order. Without a GPU there is nothing to choose.
    """
    if not q.is_cuda:
        return "default"
    times = {}
    for name in SWITCHES:
        allow(name)
        try:
            run = recorded(functools.partial(_many, q, k, v, mask))
        except RuntimeError:  # it does not take these operands
            continue
        wait(run())
        begin = time.perf_counter()
        for _ in range(REPEATS):
            run()
        wait(None)
        times[name] = time.perf_counter() - begin
    best = min(times, key=lambda name: times[name])
    allow(best)
    return best


def _many(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    for _ in range(CALLS):
        q = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return q
