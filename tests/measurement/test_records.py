"""Records come back from disk as they were, and damaged ones are refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from leanly.errors import BundleError
from leanly.measurement.records import Interval, Latency, Measurement, Verdict

LATENCY = Latency(16, ((0.001, 0.002, 0.0035), (0.0011, 0.0009, 0.001000001)))


def measurement(predictions: object = None) -> Measurement:
    return Measurement(
        runtime="openvino",
        precision="bfloat16",
        threads=2,
        latency={16: LATENCY},
        open_seconds=0.25,
        peak_memory_bytes=10_000,
        artifact_bytes=2_000,
        split="validation",
        metric=0.97,
        predictions=predictions,
        machine={"processor": "x", "isa": ["avx2"]},
        versions={"python": "3.11"},
    )


def test_measurement_comes_back(tmp_path: Path) -> None:
    predictions = {"logits": np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32), "pair": (np.arange(5),)}
    measurement(predictions).save(tmp_path / "m.json")
    back = Measurement.open(tmp_path / "m.json")
    assert back.to_json() == measurement().to_json()
    assert back.latency == {16: LATENCY}
    np.testing.assert_array_equal(back.predictions["logits"], predictions["logits"])
    assert back.predictions["logits"].dtype == np.float32
    np.testing.assert_array_equal(back.predictions["pair"][0], np.arange(5))


def test_measurement_without_predictions(tmp_path: Path) -> None:
    measurement().save(tmp_path / "m.json")
    assert [file.name for file in tmp_path.iterdir()] == ["m.json"]
    assert Measurement.open(tmp_path / "m.json").predictions is None


def test_median_is_of_block_medians() -> None:
    assert LATENCY.block_medians == (0.002, 0.001000001)
    assert LATENCY.median == pytest.approx(0.0015000005)
    interval = LATENCY.interval(0.9)
    assert interval.low <= interval.value <= interval.high
    assert interval.confidence == 0.9


def test_percentile_says_when_calls_are_too_few() -> None:
    assert LATENCY.percentile(90) is None
    assert Latency(1, (tuple(float(i) for i in range(64)),)).percentile(90) == 63


def test_verdict_comes_back() -> None:
    for verdict in (
        Verdict("pass", "why", Interval(0.1, 0.0, 0.2), 0.19, "exact", 50, 0.01),
        Verdict("undecided", "?"),
    ):
        assert Verdict.from_json(json.loads(json.dumps(verdict.to_json()))) == verdict


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.pop("latency"),
        lambda data: data.update(latency=3),
        lambda data: data["latency"][0].pop("nanoseconds"),
        lambda data: data.update(extra=1),
        lambda data: data["predictions"].update(files=["absent.npy"]),
        lambda data: data["predictions"].update(structure=7),
    ],
)
def test_damage_is_a_bundle_error(tmp_path: Path, damage: object) -> None:
    path = tmp_path / "m.json"
    measurement(np.arange(3)).save(path)
    data = json.loads(path.read_text())
    damage(data)  # type: ignore[operator]
    path.write_text(json.dumps(data))
    with pytest.raises(BundleError, match="damaged"):
        Measurement.open(path)


def test_pickled_predictions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    measurement(np.arange(3)).save(path)
    np.save(tmp_path / "m.predictions.0.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(BundleError, match="damaged"):
        Measurement.open(path)


def test_names_that_lead_elsewhere_are_looked_up_beside(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    measurement(np.arange(3)).save(folder / "m.json")
    np.save(tmp_path / "secret.npy", np.arange(9))
    data = json.loads((folder / "m.json").read_text())
    data["predictions"]["files"] = ["../secret.npy"]
    (folder / "m.json").write_text(json.dumps(data))
    with pytest.raises(BundleError):
        Measurement.open(folder / "m.json")
