"""The 880M model, the size of MirageLSD's class: settings of experiments/bench_pass.py.

Plain values, so that a machine that only measures needs nothing installed but JAX. The
sizes themselves are `mirage_jax.config.MODELS["lsd_880m"]`: width 1536, 30 layers, 12
heads of 128, patch 2, 32 prompt tokens, a ring of 7; 885.5 M parameters. No such model
has been trained: it runs on random weights, and only its speed means anything.
"""

from typing import Any


def get_config() -> dict[str, Any]:
    return {
        "model": "lsd_880m",
        # Tokens of a square frame: 256 are 512x512 pixels, 1024 are 1024x1024.
        "tokens": (256, 1024),
        # Goals of one pass on one H100, milliseconds: (tokens, bfloat16, 8 bits).
        "goals": (256, 2.0, 1.5),
    }
