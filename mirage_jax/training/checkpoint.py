"""Checkpoints by orbax: atomic, the newest two kept, verified when read.

A checkpoint is a flat dict of host arrays and beside it a small JSON record with the
shape, dtype and CRC-32 of each array: damage is found before training goes on from it.
Arrays are stored whole, whatever mesh they were trained on, and so load on any other.
Of several processes the first one reads and writes, and the others hear from it.
"""

import math
import pathlib
import shutil
import sys
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from mirage_jax.errors import MirageError, reason_of
from mirage_jax.training.hosts import from_first, leads
from mirage_jax.training.mesh import whole

KEEP = 2


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _flatten(tree: Any) -> dict[str, np.ndarray]:
    """Host arrays by path; PRNG keys as their words."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): _on_host(leaf)
        for path, leaf in leaves
    }


def _on_host(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array):
        leaf = whole(leaf)
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _unflatten(like: Any, arrays: dict[str, np.ndarray]) -> Any:
    leaves, structure = jax.tree.flatten(like)
    values = [
        jax.random.wrap_key_data(jnp.asarray(array)) if _is_key(leaf) else array
        for leaf, array in zip(leaves, arrays.values(), strict=True)
    ]
    return jax.tree.unflatten(structure, values)


def _describe(array: np.ndarray) -> str:
    return f"{array.dtype}{list(array.shape)}"


def _crc(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).data)


class Checkpoints:
    """The checkpoints of one run in one folder.

    `save` copies the state to the host at once and writes in the background; `wait`
    returns when all is on disk. A kill while writing leaves the earlier ones alone.
    All processes of a training must call `save` and `restore` together.
    """

    def __init__(self, folder: str | pathlib.Path) -> None:
        self.folder = pathlib.Path(folder).absolute()
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager | None:
        """What reads and writes; None in all processes but the first."""
        if not leads():
            return None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MirageError(
                f"cannot write to {self.folder}: {reason_of(error)}; "
                "choose another workdir"
            ) from error
        return ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=KEEP,
                cleanup_tmp_directories=True,
                create=False,
                # It would wait for processes that have no part in it.
                multiprocessing_options=ocp.options.MultiprocessingOptions(
                    active_processes={0}, barrier_sync_key_prefix="first"
                ),
            ),
            item_names=("arrays", "record"),
        )

    def clear(self) -> None:
        """Delete all checkpoints: a new run begins."""
        if self._manager is not None:
            self._manager.close()
            shutil.rmtree(self.folder)
            self._manager = self._open()

    def save(self, step: int, state: Any, elapsed: float) -> None:
        """Save `state` as of `step`, with the seconds trained so far.

        Raises:
          MirageError: the folder cannot be written.
        """
        arrays = _flatten(state)
        if self._manager is None:
            return
        record = {
            "elapsed": elapsed,
            "arrays": {k: [_describe(v), _crc(v)] for k, v in arrays.items()},
        }
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    arrays=ocp.args.StandardSave(arrays),
                    record=ocp.args.JsonSave(record),
                ),
                force=True,
            )
        except (OSError, ValueError) as error:
            raise self._unwritable(error) from error

    def wait(self) -> None:
        """Block until everything is on disk."""
        try:
            if self._manager is not None:
                self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: Exception) -> MirageError:
        reason = str(error).splitlines()[0][:200]
        return MirageError(
            f"cannot write a checkpoint in {self.folder}: {reason}; make room on that "
            "disk or choose another workdir"
        )

    def restore(self, like: Any) -> tuple[Any, float] | None:
        """The newest good state shaped like `like`, and its seconds; None if none.

        A damaged checkpoint is named, deleted and passed over.

        Raises:
          MirageError: all are damaged, or they belong to another model.
        """
        arrays, elapsed = _flatten(like), math.nan
        if self._manager is not None:
            arrays, elapsed = self._newest(self._manager, arrays) or (arrays, elapsed)
        elapsed = float(from_first(np.array(elapsed)))
        if math.isnan(elapsed):  # nothing was found
            return None
        arrays = {name: from_first(array) for name, array in arrays.items()}
        return _unflatten(like, arrays), elapsed

    def _newest(
        self, manager: ocp.CheckpointManager, like: dict[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], float] | None:
        steps = sorted(manager.all_steps(), reverse=True)
        for step in steps:
            try:
                read = self._read(manager, step, like)
            except MirageError:
                raise
            except Exception as error:  # noqa: BLE001 - orbax raises many kinds
                reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
                print(
                    f"damaged checkpoint {self.folder / str(step)}: {reason}",
                    file=sys.stderr,
                )
                continue
            for damaged in steps[: steps.index(step)]:
                manager.delete(damaged)
            return read
        if steps:
            raise MirageError(
                f"no checkpoint in {self.folder} can be read; delete that folder to "
                "begin again"
            )
        return None

    def _read(
        self, manager: ocp.CheckpointManager, step: int, like: dict[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], float]:
        record = manager.restore(
            step, args=ocp.args.Composite(record=ocp.args.JsonRestore())
        )["record"]
        here = {k: _describe(v) for k, v in like.items()}
        there = {k: v[0] for k, v in record["arrays"].items()}
        for name in sorted(here.keys() | there.keys()):
            if here.get(name) != there.get(name):
                raise MirageError(
                    f"checkpoint {self.folder / str(step)} is of another model: "
                    f"{name} is {there.get(name, 'absent')} there and "
                    f"{here.get(name, 'absent')} here; choose another workdir"
                )
        found = manager.restore(
            step, args=ocp.args.Composite(arrays=ocp.args.StandardRestore(like))
        )["arrays"]
        arrays = {name: np.asarray(found[name]) for name in like}
        for name, array in arrays.items():
            if [_describe(array), _crc(array)] != record["arrays"][name]:
                raise ValueError(f"the content of {name} is not what was saved")
        return arrays, record["elapsed"]

    def close(self) -> None:
        if self._manager is not None:
            self._manager.close()
