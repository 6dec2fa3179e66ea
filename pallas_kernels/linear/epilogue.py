"""What follows the product of a dense layer: by XLA, and what kernels need of it."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

ACTIVATIONS = (None, "gelu")


def check(
    tokens: tuple[int, ...],
    outputs: int,
    activation: str | None,
    bias: Array | None,
    residual: Array | None,
    gate: Array | None,
) -> None:
    """Raises ValueError unless all of it fits tokens [B, G, N, K] and D outputs."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"{activation=} is none of {ACTIVATIONS}")
    if bias is not None and bias.shape != (outputs,):
        raise ValueError(f"{bias.shape=} must be ({outputs},)")
    if residual is not None and residual.shape != (*tokens[:3], outputs):
        raise ValueError(f"{residual.shape=} does not fit {tokens=} and {outputs=}")
    if gate is not None and gate.shape != (*tokens[:2], outputs):
        raise ValueError(f"{gate.shape=} does not fit {tokens=} and {outputs=}")


def finish(
    y: Float[Array, "B G N D"],
    bias: Float[Array, " D"] | None,
    activation: str | None,
    residual: Float[Array, "B G N D"] | None,
    gate: Float[Array, "B G D"] | None,
) -> Float[Array, "B G N D"]:
    """Bias, activation and gated residual of a float32 product; float32."""
    if bias is not None:
        y = y + bias.astype(jnp.float32)[None, None, None]
    if activation == "gelu":
        y = jax.nn.gelu(y)
    if gate is not None:
        y = y * gate.astype(jnp.float32)[:, :, None]
    if residual is not None:
        y = y + residual.astype(jnp.float32)
    return y


def gelu(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The tanh form of GELU (Hendrycks and Gimpel 2016), as `jax.nn.gelu`, in kernels.

    Written out in operations that the kernels' compilers know.
    """
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)
    return 0.5 * x * (1.0 + jnp.tanh(inner))


def operands_of(
    bias: Float[Array, " D"] | None,
    residual: Float[Array, "B G N D"] | None,
    gate: Float[Array, "B G D"] | None,
) -> list[Array]:
    """Those that there are, in the order of the kernels: [D], [R, D], [frames, D]."""
    found = [] if bias is None else [bias]
    for operand in (residual, gate):
        if operand is not None:
            found.append(operand.reshape(-1, operand.shape[-1]))
    return found
