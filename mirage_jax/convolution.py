"""The convolution of codec and head, with its kernel as training or a GPU has it."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Float

Params = dict[str, Any]


class Conv(nn.Module):
    """A convolution with a bias, at every pixel, with zeros around the picture.

    Attributes:
      features: channels of the result.
      kernel_size: (height, width).
      dtype: compute type.
      kernel_init: of fresh weights.
    """

    features: int
    kernel_size: tuple[int, int]
    dtype: Any = None
    kernel_init: Any = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Float[Array, "B H W c"]) -> Float[Array, "B H W C"]:
        if self.has_variable("params", "filters"):
            kernel, order = self.get_variable("params", "filters"), "OHWI"
        else:
            shape = (*self.kernel_size, x.shape[-1], self.features)
            kernel, order = self.param("kernel", self.kernel_init, shape), "HWIO"
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", order, "NHWC")
        )
        return y + bias[None, None, None]


def filters_first(params: Params) -> Params:
    """Kernels [H, W, I, O] of all convolutions as `filters` [O, H, W, I].

    So cuDNN reads them: XLA would turn each of them round in every frame.
    """
    if "kernel" in params and jnp.ndim(params["kernel"]) == 4:
        rest = {name: leaf for name, leaf in params.items() if name != "kernel"}
        return {**rest, "filters": jnp.transpose(params["kernel"], (3, 0, 1, 2))}
    return {
        name: filters_first(part) if isinstance(part, dict) else part
        for name, part in params.items()
    }
