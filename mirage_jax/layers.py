"""How parameters of the blocks lie in memory: stacked by layer, or layers apart.

Stacked a model is few buffers, and a call from the host is the cheaper the fewer it
hands over. XLA's own products read a layer where it lies in the stack. A kernel of ours
takes whole buffers, so that every pass would first copy each layer out of the stack:
what should be read once is read twice and written once.
"""

from typing import Any

import jax
import jax.numpy as jnp

Params = dict[str, Any]
DENSE = ("qkv", "out", "up", "down")  # layers of a block that all tokens go through
# "matrices": a buffer for every matrix of the dense layers; "apart": also for their
# biases and scales and for those of the norms of q and k.
LAYOUTS = ("stacked", "matrices", "apart")
MATRICES = ("kernel", "values")


def lay_out(blocks: Params, layout: str) -> Params:
    """Stacked blocks in a layout: what lies apart is a tuple of an array a layer.

    Raises:
      ValueError: an unknown layout.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"{layout=} is none of {LAYOUTS}")

    def lay(path: Any, leaf: Any) -> Any:
        names = [entry.key for entry in path]
        matrix = names[0] in DENSE and names[-1] in MATRICES
        vector = names[0] in (*DENSE, "q_scale", "k_scale")
        return tuple(leaf) if matrix or (vector and layout == "apart") else leaf

    if layout == "stacked":
        return blocks
    laid: Params = jax.tree_util.tree_map_with_path(lay, blocks)
    return laid


def layout_of(blocks: Params) -> str:
    """A name of `LAYOUTS`."""
    if isinstance(blocks["q_scale"], tuple):
        return "apart"
    tuples = any(isinstance(leaf, tuple) for leaf in blocks[DENSE[0]].values())
    return "matrices" if tuples else "stacked"


def block_of(blocks: Params, index: int) -> Params:
    """Parameters of one layer, in any layout."""
    return _map_leaves(lambda leaf: leaf[index], blocks)


def stacked(blocks: Params) -> Params:
    """Any layout to arrays stacked by layer."""
    return _map_leaves(
        lambda leaf: jnp.stack(leaf) if isinstance(leaf, tuple) else leaf, blocks
    )


def _map_leaves(function: Any, blocks: Params) -> Params:
    mapped: Params = jax.tree.map(
        function, blocks, is_leaf=lambda leaf: isinstance(leaf, tuple)
    )
    return mapped
