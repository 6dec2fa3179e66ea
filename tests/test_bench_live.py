"""The benchmark of the live server, with a fake device behind a real server."""

import importlib
from typing import Any

from absl import flags
from live_fakes import FakeDevice
from live_server import embed

from mirage_jax.results import read_record
from mirage_jax.weights import Model


def test_two_clients_are_measured(tmp_path, monkeypatch, capsys):
    import experiments.bench_live as script

    script = importlib.reload(script)  # flag names are shared among scripts

    def device(model: Model, config: Any) -> FakeDevice:
        return FakeDevice(config.batch, side=config.height)

    monkeypatch.setattr(script, "SeatedStreams", device)
    monkeypatch.setattr(script, "load_model", lambda name: None)
    monkeypatch.setattr(script, "encode_text", embed)
    out = tmp_path / "live.json"
    flags.FLAGS(
        ["bench_live", "--sizes=64,96", "--clients=2", "--seconds=0.6", "--recording"]
        + [f"--out={out}"]
    )
    assert not script.run()
    record = read_record(out)
    assert record.setup["clients"] == 2
    for size in ("64", "96"):
        values = {
            name: record.results[f"{name}/{size}/2{rest}"].value
            for name, rest in (("fps", ""), ("fairness", ""))
        }
        assert values["fps"] > 5
        assert 0.5 < values["fairness"] <= 1
        p50 = record.results[f"glass_to_glass_ms/{size}/2/p50"].value
        assert 0 < p50 <= record.results[f"glass_to_glass_ms/{size}/2/p99"].value
        engine = record.results[f"engine_ms/{size}/2"].value
        assert 0 < engine < record.results[f"glass_to_glass_ms/{size}/2/p99"].value
        assert record.results[f"fps_recording/{size}/2"].value > 5
        assert record.results[f"recorded/{size}"].value > 2
    assert "glass p50" in capsys.readouterr().out


def test_a_client_that_gets_nothing_shows(monkeypatch):
    import experiments.bench_live as script

    script = importlib.reload(script)
    flags.FLAGS(["bench_live", "--seconds=2"])
    seen = [script.Seen(delays=[0.05] * 10), script.Seen()]
    found = {
        result.name: result.value for result in script.results_of("64/2", seen, 3, 0.02)
    }
    assert found["fps/64/2"] == 0
    assert found["fairness/64/2"] == 0
    assert found["glass_to_glass_ms/64/2/p50"] == 50
