"""What XLA is asked for when it compiles the program of a frame."""

import os

import jax

# Commands that become one CUDA graph: XLA's own choice, and convolutions. The codec has
# dozens, and started one by one each of them costs the host time.
GRAPH_OPTION = "xla_gpu_enable_command_buffer"
GRAPH_COMMANDS = (
    "FUSION",
    "CUBLAS",
    "CUBLASLT",
    "CUSTOM_CALL",
    "CUDNN",
    "DYNAMIC_SLICE_FUSION",
    "CONVOLUTION",
)


def frame_options() -> dict[str, str] | None:
    """Options of `jax.jit` for JAX's default device; XLA_FLAGS have the last word."""
    if jax.default_backend() != "gpu" or GRAPH_OPTION in os.environ.get(
        "XLA_FLAGS", ""
    ):
        return None
    return {GRAPH_OPTION: ",".join(GRAPH_COMMANDS)}
