import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from leanly.arguments import Arguments
from leanly.data import Split
from leanly.errors import DataError
from leanly.training.rows import WINDOW, Rows

X, Y = torch.arange(50.0).reshape(50, 1), torch.arange(50)


class Stream(IterableDataset):
    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __iter__(self):
        return ((torch.tensor([float(row)]), row) for row in range(self.rows))


def split(data) -> Split:
    return Split("train", data, Arguments(torch.nn.Identity(), X[:1]))


def seen(rows: Rows, epoch: int, start: int = 0) -> list[list[int]]:
    return [batch.targets.tolist() for batch in rows.epoch(epoch, start)]


def flattened(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


@pytest.mark.parametrize("data", [(X, Y), list(zip(X, Y.tolist(), strict=True))], ids=["arrays", "numbered"])
def test_an_epoch_is_a_shuffled_order_of_the_rows(data):
    rows = Rows(split(data), 8, seed=1)
    first, second = seen(rows, 0), seen(rows, 1)
    assert rows.steps == len(first) == 6 and {len(batch) for batch in first} == {8}
    flat = flattened(first)
    assert len(set(flat)) == 48 and flat != sorted(flat) and first != second
    assert seen(Rows(split(data), 8, seed=1), 0) == first != seen(Rows(split(data), 8, seed=2), 0)
    assert seen(rows, 0, start=4) == first[4:]
    for batch in rows.epoch(0):
        assert torch.equal(batch.inputs[0], X[batch.rows]) and torch.equal(batch.targets, Y[batch.rows])


def test_fewer_rows_than_a_batch_are_one_batch():
    assert [len(batch) for batch in seen(Rows(split((X[:5], Y[:5])), 8, seed=0), 0)] == [5]


def test_a_stream_is_mixed_in_windows_and_goes_on_anywhere():
    rows = Rows(split(Stream(400)), 8, seed=0)
    first = seen(rows, 0)
    assert len(first) == 50 and sorted(flattened(first)) == list(range(400))
    assert first != sorted(first) and max(flattened(first[:WINDOW])) < WINDOW * 8
    assert seen(rows, 0, start=17) == first[17:] and seen(rows, 1) != first
    assert next(iter(rows.epoch(0))).place == "epoch 1, batch 1"


@pytest.mark.parametrize("rows", [65, 70, 64 * WINDOW + 3])
def test_what_is_left_at_the_end_of_a_stream_is_left_out(rows):
    size = 64 if rows != 70 else 16
    found = Rows(split(Stream(rows)), size, seed=0)
    for epoch in range(4):
        batches = seen(found, epoch)
        assert [len(batch) for batch in batches] == [size] * (rows // size)
        assert sorted(flattened(batches)) == list(range(rows // size * size))
    assert seen(found, 1, start=1) == seen(found, 1)[1:]


def test_batches_of_a_stream_that_can_not_be_joined_are_taken_as_they_are():
    class Lengths(IterableDataset):
        def __iter__(self):
            return ((torch.ones(4, length), torch.full((4,), length)) for length in range(1, 21))

    data = DataLoader(Lengths(), batch_size=None)
    rows = Rows(Split("train", data, Arguments(torch.nn.Identity(), torch.ones(4, 1))), 16, seed=0)
    assert [len(batch) for batch in seen(rows, 0)] == [4] * rows.steps


def test_rows_of_a_stream_can_not_be_picked():
    with pytest.raises(DataError, match="can't be picked"):
        split(Stream(5)).take(torch.tensor([1]))


def test_a_batch_names_its_rows():
    batch = next(iter(Rows(split((X, Y)), 5, seed=0).epoch(2, start=3)))
    one, two, three = batch.rows.tolist()[:3]
    assert batch.place == f"epoch 3, batch 4 (rows {one}, {two}, {three} and 2 more of split 'train')"
