"""What the dispatchers see: `no_tables` on this machine, with `fresh` an H100 too.

Importing a fixture is enough; `fresh` builds on the other, so import both for it.
"""

import pytest

from pallas_kernels import choice, device, tuned_table
from pallas_kernels.device import Device
from pallas_kernels.frame_attention import api as attention
from pallas_kernels.linear import api as linear
from pallas_kernels.linear_8bit import api as linear_8bit
from pallas_kernels.modulated_norm import api as norms
from pallas_kernels.qk_norm_rope_commit import api as commit
from pallas_kernels.quantise import api as quantise

H100 = Device("NVIDIA H100 80GB HBM3", (9, 0), 132)
DISPATCHERS = (attention, linear, linear_8bit, norms, commit, quantise)


def forget() -> None:
    """Nothing is remembered of tables and of trials."""
    choice.measured.cache_clear()
    for dispatcher in DISPATCHERS:
        dispatcher.TRIALS.forget()


@pytest.fixture(autouse=True)
def no_tables(monkeypatch, tmp_path):
    """No device has a table, and nothing is remembered of other tests."""
    folder = tmp_path / "tuned"
    folder.mkdir()
    monkeypatch.setattr(tuned_table, "FOLDER", folder)
    forget()
    yield
    forget()


@pytest.fixture(autouse=True)
def fresh(monkeypatch, no_tables):
    """An H100 without a table, and nothing remembered of other tests."""
    monkeypatch.setattr(device, "present", lambda: H100)
