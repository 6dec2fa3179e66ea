"""The stream step compiled for a card that is not there: does it fit?"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from experiments.program_memory import Memory, planned_memory
from mirage_jax.chips import KINDS
from mirage_jax.codec import init_codec
from mirage_jax.config import TEXT_WIDTH, ModelConfig
from mirage_jax.denoiser import init_denoiser
from mirage_jax.device_weights import device_weights
from mirage_jax.errors import MirageError
from mirage_jax.stream import open_stream, stream_step
from mirage_jax.stream_config import StreamConfig
from pallas_kernels.targets import TARGETS, Target, compile_for, plugin_missing


def target_of(name: str) -> Target:
    """What can be compiled for, by the short name of its chip.

    Raises:
      MirageError: no such target, or no compiler for it on this machine.
    """
    targets = {KINDS[target.device.kind]: target for target in TARGETS}
    if name not in targets:
        raise MirageError(
            f"--compile knows no {name!r}: take --chip from {', '.join(targets)}"
        )
    if (missing := plugin_missing()) is not None:
        raise MirageError(f"--compile: {missing}; `make test-aot` installs it")
    return targets[name]


def compile_step(target: Target, model: ModelConfig, stream: StreamConfig) -> Memory:
    """Compiles a whole frame with the state given up, from shapes alone.

    Args:
      target: the card.
      model: sizes; weights of them are never made.
      stream: names every backend: an absent card can try none.

    Raises:
      MirageError: it does not compile for this card, for example because a kernel asks
        for more shared memory than a block may have.
    """
    params, state = jax.eval_shape(partial(_operands, model, stream))
    source = jax.ShapeDtypeStruct(
        (stream.batch, stream.height, stream.width, 3), jnp.uint8
    )
    step = partial(stream_step, model=model, stream=stream)
    try:
        program = compile_for(target, step, params, state, source, donate=(1,))
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise MirageError(
            f"the step does not compile for {target.device.kind}: {first}"
        ) from error
    return planned_memory(program)


def _operands(model: ModelConfig, stream: StreamConfig) -> tuple[Any, Any]:
    key = jax.random.key(0)
    fresh = {
        "codec": init_codec(key, model.codec),
        "denoiser": init_denoiser(key, model),
    }
    params = device_weights(fresh, stream)
    prompt = jnp.zeros((stream.batch, TEXT_WIDTH))
    return params, open_stream(params, model, stream, prompt, key)
