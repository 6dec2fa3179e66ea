"""The configurations of our kernels that the tuner tries, of every operation."""

from collections.abc import Callable, Sequence
from typing import Any

from pallas_kernels._mosaic import HAS_MOSAIC, HOPPER
from pallas_kernels.choice import Op
from pallas_kernels.device import Device
from pallas_kernels.frame_attention import config as attention
from pallas_kernels.frame_attention import mosaic_config as attention_mosaic
from pallas_kernels.linear import config as hopper_layers
from pallas_kernels.linear_8bit import config as layers_8bit
from pallas_kernels.modulated_norm import problem as norm
from pallas_kernels.qk_norm_rope_commit import problem as commit

# (problem, card, most) -> configurations, the likeliest first where they are many
Space = Callable[[Any, Device, int], Sequence[Any]]


def _attention_mosaic(problem: Any, card: Device, most: int) -> Sequence[Any]:
    if attention_mosaic.unsuited(problem) is not None:
        return ()
    return attention_mosaic.search_space(problem, card)  # all: they are few


def _attention_triton(problem: Any, card: Device, most: int) -> Sequence[Any]:
    return attention.search_space(problem, card)[:most]


def _norm(problem: Any, card: Device, most: int) -> Sequence[Any]:
    return norm.search_space(problem)[:most]


def _commit(problem: Any, card: Device, most: int) -> Sequence[Any]:
    return commit.search_space(problem)[:most]


def _hopper_layers(problem: Any, card: Device, most: int) -> Sequence[Any]:
    return hopper_layers.search_space(problem, card.cores, most)


def _layers_8bit(problem: Any, card: Device, most: int) -> Sequence[Any]:
    memory = card.shared_memory
    return layers_8bit.search_space(problem, memory, card.cores)[:most]


_SPACES: dict[tuple[str, str], Space] = {
    ("frame_attention", "triton"): _attention_triton,
    ("frame_attention", "mosaic"): _attention_mosaic,
    ("modulated_norm", "triton"): _norm,
    ("qk_norm_rope_commit", "triton"): _commit,
    ("linear", "mosaic"): _hopper_layers,
    ("linear_8bit", "mosaic"): _hopper_layers,
    ("linear_8bit", "triton"): _layers_8bit,
}


def search_space(
    op: Op, problem: Any, card: Device, backend: str, most: int
) -> Sequence[Any]:
    """What to try of one backend on one card; nothing where it cannot run.

    A backend without configurations has one way to do it, which is None.

    Args:
      most: upper limit where there are hundreds.
    """
    if backend not in dict(op.configs):
        return (None,)
    if backend == "mosaic" and not (HAS_MOSAIC and card.capability == HOPPER):
        return ()
    return _SPACES[op.name, backend](problem, card, most)
