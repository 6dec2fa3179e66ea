"""From the embedding of a sentence to the prompt tokens of the denoiser."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mirage_jax.config import TEXT_WIDTH, DenoiserConfig


class PromptEncoder(nn.Module):
    """Sentence embeddings to prompt tokens, through a soft choice among learnt codes.

    What a wording asks for is a mixture of few looks. A free projection of the
    embedding learns the training wordings by heart and gives an unseen one tokens that
    were never trained; a mixture of codes always lies among trained ones.
    """

    config: DenoiserConfig
    dtype: Any

    @nn.compact
    def __call__(self, prompt):
        c = self.config
        # Unit vectors of 384 numbers are small: bring them to unit spread.
        x = (prompt * TEXT_WIDTH**0.5).astype(self.dtype)
        x = nn.gelu(nn.Dense(c.prompt_hidden, dtype=self.dtype, name="hidden")(x))
        x = nn.Dense(c.prompt_codes, dtype=self.dtype, name="choice")(x)
        shares = nn.softmax(x.astype(jnp.float32))  # [B, codes]
        width = c.prompt_tokens * c.prompt_width
        normal = nn.initializers.normal(1.0)
        codes = self.param("codes", normal, (c.prompt_codes, width))
        tokens = shares.astype(self.dtype) @ codes.astype(self.dtype)
        return tokens.reshape(-1, c.prompt_tokens, c.prompt_width)
