"""Dense layers of the blocks, by one of two routes: the compute type or 8 bits.

The route is a matter of a layer's weights and nothing that a block must know: in the
compute type they are a `kernel` [K, D], in 8 bits `values` [D, K] with a `scale` [D]
each, as `device_weights` makes them once at load. This file alone says which function
multiplies.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels import linear as product
from pallas_kernels import linear_8bit as product_8bit
from pallas_kernels.eight_bit import Quantised
from pallas_kernels.linear import linear
from pallas_kernels.linear_8bit import Weight8, linear_8bit
from pallas_kernels.quantise import quantise

# A backend that was named for the product names that of the quantisation before it.
_QUANTISE = {None: None, "xla": "xla", "triton": "triton", "mosaic": "triton"}


class Dense(nn.Module):
    """activation(x @ kernel + bias).

    Attributes:
      features: D, outputs.
      dtype: compute type of the route without 8 bits, and of the result of both.
      use_bias: whether there is a bias; it starts at zero.
      activation: None or "gelu".
      eight_bit: format of both operands, None for `dtype`. It changes the layer's
        parameters: see the top of this file.
      backend: of the product, by name; None chooses by measurement.
    """

    features: int
    dtype: Any
    use_bias: bool = True
    activation: str | None = None
    eight_bit: str | None = None
    backend: str | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B G N K"] | Quantised
    ) -> Float[Array, "B G N D"]:
        """Tokens, or what a norm has quantised for the 8-bit route."""
        zeros = nn.initializers.zeros
        inputs = (x.values if isinstance(x, Quantised) else x).shape[-1]
        bias = self.param("bias", zeros, (self.features,)) if self.use_bias else None
        if self.eight_bit is None:
            if isinstance(x, Quantised):
                raise ValueError(f"8-bit tokens for a layer in {self.dtype}")
            lecun = nn.initializers.lecun_normal()
            kernel = self.param("kernel", lecun, (inputs, self.features))
            return linear(
                x.astype(self.dtype),
                kernel.astype(self.dtype),
                None if bias is None else bias.astype(self.dtype),
                activation=self.activation,
                backend=self.backend,
            )
        to = jnp.dtype(self.eight_bit)
        weight = Weight8(
            self.param("values", zeros, (self.features, inputs), to),
            self.param("scale", zeros, (self.features,)),
        )
        if not isinstance(x, Quantised):
            x = quantise(x, self.eight_bit, backend=_QUANTISE[self.backend])
        return linear_8bit(
            x,
            weight,
            bias,
            activation=self.activation,
            dtype=self.dtype,
            backend=self.backend,
        )


def backend_of(layer: Dense, tokens: tuple[int, int, int, int]) -> str | None:
    """The backend of the product that a layer runs on, for x of this shape."""
    if layer.backend is not None:
        return layer.backend
    x = jax.ShapeDtypeStruct(tokens, jnp.dtype(layer.dtype))
    jax.eval_shape(lambda x: layer.init_with_output(jax.random.key(0), x), x)
    run = product if layer.eight_bit is None else product_8bit
    return run.last_backend()
