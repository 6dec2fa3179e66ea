"""Which rivals there are, what is asked of them and what they answer."""

import dataclasses
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

from experiments.call_timing import Calls


@dataclasses.dataclass(frozen=True)
class Settings:
    """What every rival is asked for: frames of one stream, in one step each.

    Attributes:
      model: named size of our model; rivals that are other models have their own.
      side: pixels along each side of a frame.
      frames: calls that wait for their frame, and as many that do not.
      compile: mode of `torch.compile`; "eager" traces and compiles nothing.
      on_gpu: False runs toys on the CPU, to test the scripts.
    """

    model: str
    side: int
    frames: int
    compile: str
    on_gpu: bool


@dataclasses.dataclass(frozen=True)
class Found:
    """What a rival measured.

    Attributes:
      times: of the frame under the rival's name, and of parts and variants under names
        that begin with it.
      parameters: of all its networks.
      seconds: until the first frame was there, with imports, weights and compiling.
      setup: versions and choices.
      errors: relative, against float32, by the same names as `times`.
    """

    times: Mapping[str, Calls]
    parameters: int
    seconds: float
    setup: Mapping[str, Any]
    errors: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Rival:
    """Where a rival is written.

    Attributes:
      module: has `measure(name, settings) -> Found`.
      needs: packages that this project does not install.
    """

    module: str
    needs: tuple[str, ...] = ()

    @property
    def missing(self) -> list[str]:
        """Packages that are not here."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]

    def measure(self, name: str, settings: Settings) -> Found:
        """Runs it; its libraries are imported only now."""
        module = importlib.import_module(self.module)
        measure: Callable[[str, Settings], Found] = module.measure
        return measure(name, settings)


# In the order of a run. JAX's own come last, side by side.
RIVALS = {
    "sd_turbo_unet_taesd": Rival("experiments.peers.sd_turbo", ("torch", "diffusers")),
    "torch_dit": Rival("experiments.peers.torch_dit", ("torch",)),
    "jax_xla_cudnn": Rival("experiments.peers.jax_step"),
    "mirage_jax": Rival("experiments.peers.jax_step"),
}
