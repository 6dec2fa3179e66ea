"""The configs that come with the package, by name."""

from pathlib import Path

import mirage_jax

SUFFIX = ".py"


def shipped_folder() -> Path:
    """The folder that holds `configs/`: the repository, or what the wheel has of it."""
    package = Path(mirage_jax.__file__).parent
    installed = package / "shipped"
    return installed if installed.is_dir() else package.parent


def find_config(name: str) -> str:
    """The file that is meant by a name.

    Args:
      name: a file, or a config that comes with the package: `demo`, `demo.py` or
        `configs/demo.py`.

    Returns:
      `name` where there is such a file, else the shipped file; `name` where there is
      neither, for the message of whoever opens it.
    """
    path = Path(name)
    if path.is_file() or path.parent not in (Path(), Path("configs")):
        return name
    stem = path.name.removesuffix(SUFFIX)
    shipped = shipped_folder() / "configs" / f"{stem}{SUFFIX}"
    return str(shipped) if shipped.is_file() else name
