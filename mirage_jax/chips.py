"""What GPUs can do at most, as their vendor states it.

Rates are dense (no sparsity) and accumulate in float32, int8 in int32, at the boost
clock of the data sheet; no card holds it under load. GeForce cards multiply 16-bit and
8-bit floats at half speed when they accumulate in float32, which the model always does,
and int8 at full speed: there int8 is four times as fast as bfloat16, not twice.
"""

import dataclasses
import math
from collections.abc import Mapping

from mirage_jax.errors import MirageError

PRECISIONS = ("bfloat16", "int8", "float8_e4m3fn")
_GIB, _MIB = 2**30, 2**20
_TERA = 1e12


@dataclasses.dataclass(frozen=True)
class Chip:
    """Ceilings of one GPU.

    Attributes:
      name: in words.
      bandwidth: of its memory, bytes a second.
      rates: multiplications and additions of matrix products a second, by precision;
        a precision that its matrix units do not have is not there.
      memory: bytes.
      l2: bytes of the cache that all multiprocessors share; infinite where unknown.
      sources: addresses of the vendor's papers that the numbers are from; none where
        they were measured.
    """

    name: str
    bandwidth: float
    rates: Mapping[str, float]
    memory: float
    l2: float
    sources: tuple[str, ...]

    def rate(self, precision: str) -> float:
        """Operations a second in this precision.

        Raises:
          MirageError: the chip does not have it.
        """
        if precision not in self.rates:
            raise MirageError(
                f"{self.name} has no matrix units for {precision}: take one of "
                f"{', '.join(self.rates)}"
            )
        return self.rates[precision]


def _rates(
    bfloat16: float, int8: float, float8: float | None = None
) -> dict[str, float]:
    given = zip(PRECISIONS, (bfloat16, int8, float8), strict=True)
    return {name: rate * _TERA for name, rate in given if rate is not None}


_AMPERE = (
    "https://images.nvidia.com/aem-dam/en-zz/Solutions/data-center/"
    "nvidia-ampere-architecture-whitepaper.pdf"
)
_A100 = (
    "https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/"
    "nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf"
)
_HOPPER = "https://resources.nvidia.com/en-us-tensor-core/gtc22-whitepaper-hopper"

CHIPS: dict[str, Chip] = {
    "rtx3090": Chip(
        "GeForce RTX 3090",
        936e9,
        _rates(71.2, 284.7),  # bfloat16 halved; 16-bit floats summed in 16 bits: 142.3
        24 * _GIB,
        6 * _MIB,
        (
            "https://www.nvidia.com/content/PDF/"
            "nvidia-ampere-ga-102-gpu-architecture-whitepaper-v2.pdf",
        ),
    ),
    "rtx4090": Chip(
        "GeForce RTX 4090",
        1008e9,
        _rates(165.2, 660.6, 330.3),  # both floats halved, as above
        24 * _GIB,
        72 * _MIB,
        (
            "https://images.nvidia.com/aem-dam/Solutions/geforce/ada/"
            "nvidia-ada-gpu-architecture.pdf",
        ),
    ),
    "a100_40gb": Chip(
        "A100 SXM 40 GB",
        1555e9,
        _rates(312.0, 624.0),
        40 * _GIB,
        40 * _MIB,
        (_AMPERE, _A100),
    ),
    "a100_80gb": Chip(
        "A100 SXM 80 GB",
        2039e9,
        _rates(312.0, 624.0),
        80 * _GIB,
        40 * _MIB,
        (_AMPERE, _A100),
    ),
    "h100": Chip(
        "H100 SXM 80 GB",
        3350e9,
        _rates(989.4, 1978.9, 1978.9),
        80 * _GIB,
        50 * _MIB,
        (_HOPPER, "https://www.nvidia.com/en-us/data-center/h100/"),
    ),
    "h200": Chip(
        "H200 SXM 141 GB",
        4800e9,
        _rates(989.4, 1978.9, 1978.9),
        141 * 10**9,
        50 * _MIB,
        (_HOPPER, "https://www.nvidia.com/en-us/data-center/h200/"),
    ),
}
# Devices by the name that JAX gives them, for result files.
KINDS: dict[str, str] = {
    "NVIDIA GeForce RTX 3090": "rtx3090",
    "NVIDIA GeForce RTX 4090": "rtx4090",
    "NVIDIA A100-SXM4-40GB": "a100_40gb",
    "NVIDIA A100-SXM4-80GB": "a100_80gb",
    "NVIDIA H100 80GB HBM3": "h100",
    "NVIDIA H200": "h200",
}


def chip_of(name: str) -> Chip:
    """A chip by its short name, "rtx3090", or by the name that JAX gives the device.

    Raises:
      MirageError: it is not in the table.
    """
    short = KINDS.get(name, name)
    if short not in CHIPS:
        raise MirageError(f"no chip {name!r}: take one of {', '.join(CHIPS)}")
    return CHIPS[short]


def measured_chip(kind: str, bandwidth: float, rate: float) -> Chip:
    """A device by ceilings that were measured on it.

    Args:
      kind: the name that JAX gives it; its caches are known if it is in the table.
      bandwidth: of copies, bytes a second.
      rate: of bfloat16 products, operations a second; 8 bits are taken to be twice as
        fast.
    """
    rates = dict(zip(PRECISIONS, (rate, 2 * rate, 2 * rate), strict=True))
    known = CHIPS.get(KINDS.get(kind, ""))
    memory, l2 = (math.inf, math.inf) if known is None else (known.memory, known.l2)
    return Chip(kind, bandwidth, rates, memory, l2, ())
