"""Kernels for a GPU that is not there: cases, and the shared memory they ask for."""

import re
from typing import Any

import jax

from pallas_kernels.targets import Target, compile_for

# Problem and configuration: every way to meet, both tiles and numbers of
# warpgroups, heads and prompts.
HOPPER_CASES = {
    "alone": ("lsd_1024", (128, 1, 2, 2)),
    "cluster_of_4": ("lsd_256", (64, 4, 4, 2)),
    "cluster_of_5": ("lsd_256", (64, 5, 3, 2)),
    "lagged": ("lsd_256_lagged", (64, 2, 4, 2)),
    "narrow_heads": ("default_256", (128, 4, 3, 1)),
    "one_tile_a_slot": ("default_64", (64, 2, 4, 1)),
    "layers": ("layers_of_30", (64, 4, 4, 2)),
}


def requested_shared_memory(target: Target, call: Any, *operands: Any) -> int:
    """Bytes a block asks for, from the refusal of a card that has almost none."""
    tiny = re.sub(r"(optin: )\d+", r"\g<1>1024", target.description)
    try:
        compile_for(target, call, *operands, description=tiny)
    except jax.errors.JaxRuntimeError as error:
        found = re.search(r"requested (\d+), available: 1024", str(error))
        if found is None:
            raise
        return int(found[1])
    return 1024
