"""Which backend each operation of a stream ran on."""

from mirage_jax.stream_config import StreamConfig
from pallas_kernels import (
    frame_attention,
    linear,
    linear_8bit,
    modulated_norm,
    qk_norm_rope_commit,
    quantise,
)


def backends_used(stream: StreamConfig) -> dict[str, str | None]:
    """What the operations of this stream, which was traced last, ran on.

    Of an operation that a frame calls several times it is the last call's.
    """
    called = {
        "frame_attention": frame_attention,
        "modulated_norm": modulated_norm,
        "qk_norm_rope_commit": qk_norm_rope_commit,
        "linear": linear,
    }
    if stream.eight_bit is not None:
        called |= {"linear_8bit": linear_8bit, "quantise": quantise}
    return {name: op.last_backend() for name, op in called.items()}
