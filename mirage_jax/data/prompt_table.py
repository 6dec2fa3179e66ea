"""The wordings of every style and their embeddings, ready for a training step.

The table is a file, `prompts.npz`, so that training needs no sentence encoder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from mirage_jax.data.prompts import HELD_OUT_PROMPTS, PROMPTS
from mirage_jax.data.shards import save_arrays
from mirage_jax.errors import MirageError
from mirage_jax.text import encode_text

_FILE = "prompts.npz"


@dataclass(frozen=True)
class PromptTable:
    """n styles; m training and k held-out wordings, the shorter lists repeated.

    Attributes:
      style_names: in the order of `mirage_jax.data.prompts`, then the users' own.
      train_texts, held_out_texts: the wordings, [n, m] and [n, k].
      train_embeddings, held_out_embeddings: their sentence embeddings, length 1.
      train_counts, held_out_counts: how many of a row are distinct. Of a style without
        held-out wordings (count 0) the row holds training ones.
    """

    style_names: tuple[str, ...]
    train_texts: np.ndarray
    train_embeddings: Float[np.ndarray, "n m E"]
    train_counts: Int[np.ndarray, " n"]
    held_out_texts: np.ndarray
    held_out_embeddings: Float[np.ndarray, "n k E"]
    held_out_counts: Int[np.ndarray, " n"]


def write_prompts(
    folder: Path, own_styles: Mapping[str, Sequence[str]] | None = None
) -> PromptTable:
    """Encode all wordings and write `prompts.npz`.

    Args:
      folder: exists.
      own_styles: the users' own styles and their wordings.

    Raises:
      MirageError: an own style has the name of a shipped one or no wordings.
    """
    train = {name: tuple(texts) for name, texts in PROMPTS.items()}
    for name, texts in (own_styles or {}).items():
        if name in train:
            raise MirageError(
                f"a style named {name!r} is shipped: rename the folder of pairs"
            )
        train[name] = tuple(texts)
    for name, texts in train.items():
        if not texts:
            raise MirageError(f"style {name!r} has no wordings: give it at least one")
    held_out = {name: tuple(HELD_OUT_PROMPTS.get(name, ())) for name in train}
    train_texts = _fill(list(train.values()), list(train.values()))
    held_out_texts = _fill(list(held_out.values()), list(train.values()))
    table = PromptTable(
        style_names=tuple(train),
        train_texts=train_texts,
        train_embeddings=_embed(train_texts),
        train_counts=np.array([len(t) for t in train.values()], np.int32),
        held_out_texts=held_out_texts,
        held_out_embeddings=_embed(held_out_texts),
        held_out_counts=np.array([len(t) for t in held_out.values()], np.int32),
    )
    save_arrays(
        folder / _FILE, {name: np.asarray(value) for name, value in vars(table).items()}
    )
    return table


def load_prompts(folder: str | Path) -> PromptTable:
    """Read what `write_prompts` wrote.

    Raises:
      MirageError: the file is absent or damaged.
    """
    path = Path(folder) / _FILE
    cure = "write it with python -m experiments.prepare_data --prompts_only"
    if not path.is_file():
        raise MirageError(f"no {path}: {cure}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in PromptTable.__annotations__}
    except Exception as error:  # zip, zlib, numpy and OS errors share no base
        raise MirageError(f"{path} is damaged ({error}): {cure}") from error
    names = tuple(str(name) for name in arrays.pop("style_names"))
    return PromptTable(style_names=names, **arrays)


def _fill(rows: list[tuple[str, ...]], spare: list[tuple[str, ...]]) -> np.ndarray:
    """Rows of one length: each is repeated; `spare` stands in for an empty one."""
    longest = max(1, *(len(row) for row in rows))
    full = [row or other for row, other in zip(rows, spare, strict=True)]
    return np.array([[row[i % len(row)] for i in range(longest)] for row in full])


def _embed(texts: np.ndarray) -> np.ndarray:
    """Embeddings [n, m, E] of texts [n, m]."""
    return encode_text([str(t) for t in texts.reshape(-1)]).reshape(*texts.shape, -1)
