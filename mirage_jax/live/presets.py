"""The styles that the page offers, with a prompt of each."""

from mirage_jax.data.prompts import PROMPTS

_MEMORY = ("low_light", "light_trails", "signal_loss")


def presets() -> list[dict[str, str]]:
    """Name, label, group ("style" or "effect") and prompt of every style.

    The prompt is the second wording of the style's training: a sentence, where the
    first is a word.
    """
    return [
        {
            "name": name,
            "label": name.replace("_", " ").capitalize(),
            "group": "effect" if name in _MEMORY else "style",
            "prompt": wordings[1],
        }
        for name, wordings in PROMPTS.items()
    ]
