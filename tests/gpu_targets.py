"""How much shared memory a kernel asks for on a GPU that is not there."""

import re
from typing import Any

import jax

from pallas_kernels.targets import Target, compile_for


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
