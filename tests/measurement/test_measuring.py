"""Measure, compare and predict, from a task to figures."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from leanly.artifact import Artifact
from leanly.errors import DataError
from leanly.graph import capture
from leanly.lowering import lower
from leanly.measurement import compare, measure, predict, profile
from leanly.measurement.inputs import flat_arrays, made_up, timing_inputs
from leanly.structure import TensorSpec
from leanly.target import Target
from leanly.task import Task

TARGET = Target(threads=1, batch_sizes=(1, 4))
ONE = Target(threads=1)
ROWS = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))


class Scale(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def task(**settings: Any) -> Task:
    labels = ROWS.argmax(1)
    labels[:5] = (labels[:5] + 1) % 3
    return Task(Scale().eval(), example=(ROWS[:2],), **{"validation": (ROWS, labels), **settings})


def test_measurement_is_complete(make_artifact: Any) -> None:
    artifact: Artifact = make_artifact()
    found = measure(artifact, TARGET, task(), seconds=0.05)
    assert list(found.latency) == [1, 4]
    assert (found.runtime, found.precision, found.threads) == ("onnxruntime", "float32", 1)
    assert found.artifact_bytes == artifact.bytes
    assert found.open_seconds > 0
    assert (found.split, found.metric) == ("validation", pytest.approx(0.9))
    np.testing.assert_allclose(found.predictions, 2 * ROWS.numpy(), rtol=1e-6)
    assert found.machine["cores"] >= 1 and isinstance(found.machine["isa"], list)
    assert "python" in found.versions


def test_measurement_without_a_task_or_a_split(make_artifact: Any) -> None:
    artifact = make_artifact()
    found = measure(artifact, ONE, seconds=0.02)
    assert (found.split, found.metric, found.predictions) == (None, None, None)
    found = measure(artifact, ONE, task(), split="test", seconds=0.02)
    assert (found.split, found.metric) == (None, None)


def test_measurement_comes_back_from_disk(make_artifact: Any, tmp_path: Any) -> None:
    found = measure(make_artifact(), ONE, task(), seconds=0.02)
    found.save(tmp_path / "m.json")
    back = type(found).open(tmp_path / "m.json")
    assert back.to_json() == found.to_json()
    assert back.latency == found.latency  # not a nanosecond lost
    np.testing.assert_array_equal(back.predictions, found.predictions)


def test_comparison_pairs_times_and_predictions(make_artifact: Any) -> None:
    # The negated model is wrong nearly everywhere: the drop from b to a is large.
    found = compare(make_artifact("a", -2.0), make_artifact("b", 2.0), TARGET, task(), seconds=0.05)
    assert list(found.ratio) == [1, 4]
    for interval in (*found.ratio.values(), found.geometric_mean):
        assert 0 < interval.low <= interval.value <= interval.high
    assert found.drop is not None
    assert found.b.metric is not None and found.a.metric is not None
    assert found.drop.drop.value == pytest.approx(found.b.metric - found.a.metric)
    assert found.drop.lower > 0.5
    assert found.drop.n == 50


def test_comparison_without_a_task(make_artifact: Any) -> None:
    artifact = make_artifact()
    found = compare(artifact, artifact, ONE, seconds=0.02)
    assert found.drop is None
    assert len(found.a.latency[1].blocks) == len(found.b.latency[1].blocks)


@pytest.mark.parametrize("batch_size", [1, 7, 50, 64])
def test_predictions_are_the_rows_in_order_at_any_batch_size(make_artifact: Any, batch_size: int) -> None:
    split = task().split("validation")
    assert split is not None
    found = predict(make_artifact(factor=3.0), TARGET, split, threads=1, batch_size=batch_size)
    np.testing.assert_allclose(found, 3 * ROWS.numpy(), rtol=1e-6)


def test_predictions_have_the_structure_of_the_model(make_artifact: Any) -> None:
    artifact = replace(make_artifact(), returns={"dict": {"logits": 0, "note": {"constant": None}}})
    split = task().split("validation")
    assert split is not None
    found = predict(artifact, TARGET, split)
    assert list(found) == ["logits", "note"]
    assert found["logits"].shape == (50, 3)


def test_inputs_are_rows_of_the_split_repeated_when_too_few(make_artifact: Any) -> None:
    job = task()
    found = timing_inputs(make_artifact(), job, job.split("validation"), (1, 64))
    np.testing.assert_array_equal(found[1][0], ROWS[:1].numpy())
    np.testing.assert_array_equal(found[64][0][50:], ROWS[:14].numpy())


def test_inputs_from_the_example_alone(make_artifact: Any) -> None:
    found = timing_inputs(make_artifact(), task(), None, (5,))
    np.testing.assert_array_equal(found[5][0], ROWS[[0, 1, 0, 1, 0]].numpy())


def test_made_up_inputs_fit_the_description() -> None:
    ids = made_up(TensorSpec("ids", "int64", ("batch", "length")), 3)
    assert (ids.shape, ids.dtype, set(ids.ravel())) == ((3, 16), np.int64, {1})
    image = made_up(TensorSpec("x", "float32", ("batch", 3, 8, 8)), 2)
    assert (image.shape, image.dtype) == ((2, 3, 8, 8), np.float32)
    assert made_up(TensorSpec("table", "float32", (7, 2)), 5).shape == (7, 2)


def test_dtypes_are_converted_within_their_kind_only(make_artifact: Any) -> None:
    artifact = make_artifact()
    (found,) = flat_arrays(artifact, [torch.ones(2, 3, dtype=torch.float64)])
    assert found.dtype == np.float32
    with pytest.raises(DataError, match="x is int64, the artifact takes float32"):
        flat_arrays(artifact, [torch.ones(2, 3, dtype=torch.int64)])
    with pytest.raises(DataError, match="2 inputs"):
        flat_arrays(artifact, [torch.ones(2, 3)] * 2)


def test_data_of_another_shape_is_refused_before_anything_is_timed(make_artifact: Any, tmp_path: Any) -> None:
    rows = torch.randn(8, 5)
    other = Task(Scale().eval(), example=(rows[:2],), validation=(rows, rows.argmax(1)))
    artifact = make_artifact()
    said = "input x of the data has 5 in dimension 1, the model takes 3.*measure an artifact with the task it was made"
    for call in (lambda: measure(artifact, ONE, other), lambda: profile(artifact, other)):
        with pytest.raises(DataError, match=said):
            call()
    wide = lower(capture(Scale().eval(), example=(rows[:2],)), runtime="onnxruntime", to=tmp_path / "wide")
    with pytest.raises(DataError, match="of the data has 3 in dimension 1, the model takes 5"):
        compare(artifact, wide, ONE, task(), seconds=0.05)


def test_an_eager_graph_is_measured_like_any_artifact(tmp_path: Any) -> None:
    capture(Scale().eval(), example=(ROWS[:2],)).save(tmp_path / "graph")
    artifact = Artifact(
        folder=tmp_path,
        runtime="torch",
        precision="float32",
        files=("graph",),
        inputs=(TensorSpec("x", "float32", ("batch", 3)),),
        outputs=(TensorSpec("y", "float32", ("batch", 3)),),
        arguments={"tuple": [{"tuple": [0]}, {"dict": {}}]},
        returns=0,
        notes=("eager",),
    )
    found = measure(artifact, ONE, task(), seconds=0.02)
    np.testing.assert_allclose(found.predictions, 2 * ROWS.numpy(), rtol=1e-6)
