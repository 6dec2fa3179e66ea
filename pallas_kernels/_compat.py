"""All that differs between JAX releases, and the only file that names Pallas-Triton.

Works with jax 0.10.2, 0.11.2 and 0.12. The Triton backend of Pallas is deprecated
since 0.11 and alive in 0.12; a release without it leaves `HAS_TRITON` False, and the
kernels then say that they cannot run instead of failing on import.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array

try:
    from jax.experimental.pallas import triton as _triton
except ImportError:
    HAS_TRITON = False
else:
    HAS_TRITON = True

# What kernels are to XLA: calls whose form JAX promises to nobody who keeps a program.
CUSTOM_CALLS = ("__gpu$xla.gpu.triton", "mosaic_gpu_v2")

# Emitted by every lowering for a GPU. It is known: see the module's docstring.
warnings.filterwarnings(
    "ignore",
    message="The Pallas Triton backend is deprecated",
    category=DeprecationWarning,
)


def triton_call(
    kernel: Callable[..., None],
    *,
    name: str,
    num_warps: int,
    num_stages: int,
    interpret: bool,
    **kwargs: Any,
) -> Callable[..., Any]:
    """`pl.pallas_call` by Triton, or by the interpreter on any device."""
    if not HAS_TRITON:
        raise NotImplementedError(f"jax {jax.__version__} has no Pallas-Triton")
    params = _triton.CompilerParams(num_warps=num_warps, num_stages=num_stages)
    return pl.pallas_call(
        kernel, name=name, compiler_params=params, interpret=interpret, **kwargs
    )


def load(ref: Any, mask: Array | None = None) -> Array:
    """Reads a block; 0 where the mask is False, without touching memory there."""
    if mask is None:
        return _triton.load(ref)
    # An integer 0 could not be cast to 8-bit floats.
    zero = 0.0 if jnp.issubdtype(ref.dtype, jnp.floating) else 0
    return _triton.load(ref, mask=mask, other=zero)


def store(ref: Any, value: Array, mask: Array | None = None) -> None:
    """Writes a block where the mask is True."""
    _triton.store(ref, value, mask=mask)


def requested(*, interpret: bool) -> None:
    """Between two groups of loads: the first is asked for before the second.

    Left alone, the compiler moves a load down to where its numbers are used, to save
    registers, and the program waits for memory twice. With the numbers that are needed
    first in the second group, it waits once. It costs a barrier of the program's
    warps, in which nobody waits for memory.
    """
    if not interpret:
        _triton.debug_barrier()


def exp2(x: Array, *, interpret: bool) -> Array:
    """2 ** x of float32 in one instruction; results below 2**-126 become 0.

    The library's exp2 keeps such results, which a softmax has no use for, at the price
    of a comparison and two multiplications an element.
    """
    if interpret:
        return jnp.exp2(x)
    [y] = _triton.elementwise_inline_asm(
        "ex2.approx.ftz.f32 $0, $1;",
        args=[x],
        constraints="=f,f",
        pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(x.shape, x.dtype)],
    )
    return y


def multiply_add(a: Array, b: Array, c: Array, *, interpret: bool) -> Array:
    """a * b + c in one instruction, rounded once to the operands' dtype.

    XLA forbids the compiler to join the two, and kernels on rows do little else.
    bfloat16 goes by twos and is never widened.

    Args:
      a, b, c: float32 or bfloat16, all of them alike; they broadcast. The result has
        an even number of elements.
    """
    shape = jnp.broadcast_shapes(a.shape, b.shape, c.shape)
    if interpret:
        first, second, third = (x.astype(jnp.float32) for x in (a, b, c))
        return (first * second + third).astype(a.dtype)
    half = a.dtype == jnp.bfloat16
    [y] = _triton.elementwise_inline_asm(
        f"fma.rn.{'bf16x2' if half else 'f32'} $0, $1, $2, $3;",
        args=[jnp.broadcast_to(x, shape) for x in (a, b, c)],
        constraints="=r,r,r,r" if half else "=f,f,f,f",
        pack=2 if half else 1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(shape, a.dtype)],
    )
    return y


# A name for each compute capability that JAX lowers for when the card is not there.
_KNOWN_KINDS = {
    (8, 0): "NVIDIA A100",
    (8, 6): "NVIDIA A10",
    (8, 9): "NVIDIA L4",
    (9, 0): "NVIDIA H100",
    (10, 0): "NVIDIA B200",
    (10, 3): "NVIDIA B300",
    (12, 0): "NVIDIA RTX PRO 6000",
    (12, 1): "NVIDIA GB10",
}


@contextlib.contextmanager
def lowering_for(capability: tuple[int, int], cores: int) -> Iterator[None]:
    """Lowers Triton kernels for a GPU that is not there.

    Args:
      capability: compute capability, (9, 0).
      cores: its multiprocessors.

    Raises:
      NotImplementedError: JAX knows no card of this capability.
    """
    if capability not in _KNOWN_KINDS:
        raise NotImplementedError(f"{capability=} is none of {tuple(_KNOWN_KINDS)}")
    device = jax.sharding.AbstractDevice(
        device_kind=_KNOWN_KINDS[capability], platform="gpu", num_cores=cores
    )
    mesh = jax.sharding.AbstractMesh((), (), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        yield
