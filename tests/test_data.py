import random
import tracemalloc
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from leanly.arguments import Arguments
from leanly.data import Split
from leanly.errors import DataError, LeanlyWarning
from leanly.seeding import fixed_random

N = 150
X = torch.arange(N * 3, dtype=torch.float32).reshape(N, 3)
Y = torch.arange(N) % 5


class Rows(Dataset):
    """Map-style: items computed when asked for."""

    def __init__(self, item=lambda index: (X[index], int(Y[index])), count=N):
        self.item, self.count = item, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.item(index)


class Stream(IterableDataset):
    def __init__(self, order=range(N)):
        self.order = order

    def __iter__(self):
        return ((X[index], Y[index]) for index in self.order)


class Shuffled(IterableDataset):
    def __iter__(self):
        return ((X[index], Y[index]) for index in torch.randperm(N).tolist())


def split(data, example=X[:1], name="validation"):
    return Split(name, data, Arguments(nn.Flatten(), example))


def shuffling(**settings):
    with pytest.warns(LeanlyWarning, match=r"split 'validation' shuffles.*in order.*What to do: nothing, or"):
        return split(DataLoader(Rows(), batch_size=32, shuffle=True, **settings))


def all_kinds():
    return {
        "tensors": split((X, Y)),
        "arrays": split((X.numpy(), Y.numpy())),
        "a list of labels": split((X, Y.tolist())),
        "tensor dataset": split(TensorDataset(X, Y)),
        "map-style": split(Rows()),
        "a list of pairs": split([(X[index], Y[index]) for index in range(N)]),
        "subset": split(Subset(TensorDataset(torch.flip(X, [0]), torch.flip(Y, [0])), range(N - 1, -1, -1))),
        "loader": split(DataLoader(Rows(), batch_size=7)),
        "loader that drops the last": split(DataLoader(Rows(), batch_size=40, drop_last=True)),
        "loader over tensors": split(DataLoader(TensorDataset(X, Y), batch_size=7)),
        "shuffling loader": shuffling(),
        "stream": split(Stream()),
        "loader of a stream": split(DataLoader(Stream(), batch_size=7)),
        "loader of batches": split(
            DataLoader(Rows(lambda i: (X[i * 50 : i * 50 + 50], Y[i * 50 : i * 50 + 50]), 3), None)
        ),
    }


def test_all_kinds_of_data_give_the_same_rows_in_the_same_order():
    for kind, one in all_kinds().items():
        for size in (1, 7, 64, 1000):
            batches = list(one.batches(size))
            assert torch.equal(torch.cat([batch.arguments[0][0] for batch in batches]), X), (kind, size)
            assert torch.equal(torch.cat([batch.targets for batch in batches]), Y), (kind, size)
            sizes = [len(batch.targets) for batch in batches]
            assert sizes == [size] * (N // size) + [N % size] * (N % size > 0), (kind, size)
        assert len(one) == N, kind
        assert np.array_equal(one.targets, Y.numpy()), kind


def test_all_kinds_of_data_have_the_same_digest():
    digests = {kind: one.digest for kind, one in all_kinds().items()}
    assert set(digests.values()) == {split((X, Y)).digest}, digests
    assert len(split((X, Y)).digest) == 64


def test_numbered_rows_are_picked_in_any_order():
    rows = torch.tensor([149, 3, 3, 0])
    picked = 0
    for kind, one in all_kinds().items():
        if one.counted:
            (inputs,), targets = one.take(rows)
            assert torch.equal(inputs, X[rows]) and torch.equal(targets, Y[rows]), kind
            inputs.zero_()
            picked += 1
        else:
            with pytest.raises(DataError, match="rows of a stream can't be picked"):
                one.take(rows)
    assert picked > 5 and X[149, 2] == 449, "what is picked is a copy"


@given(st.integers(1, 70), st.integers(0, 200), st.integers(1, 40))
def test_a_limit_cuts_after_so_many_rows(size, limit, loader_size):
    for one in (split((X, Y)), split(Rows()), split(DataLoader(Stream(), batch_size=loader_size))):
        batches = list(one.batches(size, limit))
        seen = torch.cat([X[:0], *(batch.arguments[0][0] for batch in batches)])
        assert torch.equal(seen, X[:limit])
        assert all(0 < len(batch.targets) <= size for batch in batches)


def test_a_digest_sees_inputs_targets_dtypes_shapes_and_order():
    changed = X.clone()
    changed[149, 2] += 1
    other = Y.clone()
    other[149] += 1
    versions = [
        (X, Y),
        (changed, Y),
        (X, other),
        (X[:-1], Y[:-1]),
        (X.flip(0), Y.flip(0)),
        (X, Y.int()),
        (X.view(torch.int32), Y),
        (X.reshape(N, 3, 1), Y),
        (X, Y[:, None]),
    ]
    assert len({split(version).digest for version in versions}) == len(versions)


def test_the_name_of_an_input_is_in_the_digest():
    assert split(({"a": X}, Y), {"a": X[:1]}).digest != split(({"b": X}, Y), {"b": X[:1]}).digest


def test_row_digests_tell_equal_inputs():
    inputs = X.clone()
    inputs[3] = inputs[0]
    digests = split((inputs, Y)).row_digests()
    assert digests.shape == (N,)
    assert digests[0] == digests[3]
    assert len(np.unique(digests)) == N - 1


def test_tuples_dicts_and_structured_items():
    wide = torch.zeros(N, 4)
    by_position = split(((X, wide), Y), (X[:1], wide[:1]))
    args, kwargs = next(by_position.batches(8)).arguments
    assert ([tuple(tensor.shape) for tensor in args], kwargs) == ([(8, 3), (8, 4)], {})
    items = split(Rows(lambda i: ((X[i], wide[i]), Y[i])), (X[:1], wide[:1]))
    assert items.digest == by_position.digest
    by_name = split(Rows(lambda i: ({"b": wide[i], "a": X[i]}, Y[i])), {"a": X[:1], "b": wide[:1]})
    args, kwargs = next(by_name.batches(8)).arguments
    assert args == ()
    assert {name: tuple(tensor.shape) for name, tensor in kwargs.items()} == {"a": (8, 3), "b": (8, 4)}
    flat, targets = next(by_name.flat_batches(8))
    assert [tuple(tensor.shape) for tensor in flat] == [(8, 3), (8, 4)]
    assert torch.equal(targets, Y[:8])


def test_a_collate_function_that_pads_is_asked_for_each_batch():
    def pad(items):
        texts = nn.utils.rnn.pad_sequence(
            [torch.ones(length, dtype=torch.int64) for length, _ in items], batch_first=True
        )
        return {"ids": texts}, torch.tensor([label for _, label in items])

    loader = DataLoader(Rows(lambda index: (index % 4 + 1, 0), 10), batch_size=2, collate_fn=pad)
    shapes = [tuple(batch.arguments[1]["ids"].shape) for batch in split(loader, {"ids": torch.ones(1, 3)}).batches(3)]
    assert shapes == [(3, 3), (3, 4), (3, 4), (1, 2)]


def test_a_stream_of_batches_that_can_not_be_joined_gives_them_apart():
    def batches():
        for length in (2, 3, 3):
            yield torch.ones(4, length), torch.zeros(4)

    class Batches(IterableDataset):
        def __iter__(self):
            return batches()

    one = split(DataLoader(Batches(), batch_size=None), torch.ones(1, 3))
    assert [tuple(batch.arguments[0][0].shape) for batch in one.batches(3)] == [(3, 2), (1, 2), (3, 3), (3, 3), (2, 3)]
    assert [len(batch.targets) for batch in one.batches(3, 5)] == [3, 1, 1]


def test_what_a_model_does_in_place_does_not_reach_the_user_s_data():
    inputs, array = X.clone(), X.numpy().copy()
    for data in ((inputs, Y), (array, Y.numpy())):
        for batch in split(data).batches(50):
            batch.arguments[0][0].zero_()
            batch.targets.zero_()
    assert torch.equal(inputs, X)
    assert np.array_equal(array, X.numpy())
    assert Y.sum() > 0


def test_arrays_that_can_not_be_written_to_are_read(tmp_path):
    np.save(tmp_path / "x.npy", X.numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert split((mapped, Y)).digest == split((X, Y)).digest


def test_reading_holds_a_batch_not_the_split():
    big = np.zeros((4000, 1000), dtype=np.float32)
    one = split((big, np.zeros(4000, dtype=np.int64)), torch.zeros(1, 1000))
    tracemalloc.start()
    for _ in one.batches(16):
        pass
    _ = one.digest
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < big.nbytes / 8


def test_strided_bool_and_half_rows_have_bytes_too():
    strided = torch.arange(60.0).reshape(6, 10).t()
    assert split((strided, Y[:10]), strided[:1]).digest == split((strided.contiguous(), Y[:10]), strided[:1]).digest
    for inputs in (X > 3, X.half(), X.bfloat16(), X[:, 0], X[:, :0]):
        assert len(split((inputs, Y), inputs[:1]).row_digests()) == N


def test_big_endian_and_object_arrays_are_refused():
    with pytest.raises(DataError, match=r"can't become a tensor.*Where: split 'validation'.*float32 inputs"):
        split((X.numpy().astype(">f4"), Y))
    with pytest.raises(DataError, match="can't become a tensor"):
        split((np.array(["a"] * N), Y))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ((X,), "tuple of 1.*inputs, targets"),
        ((X, X, Y), "tuple of 3.*several inputs as a tuple"),
        (X, "data is a Tensor"),
        ({"x": X}, "data is a dict"),
        ("mnist.npz", "data is a str"),
        (7, "data is a int"),
        ((X, Y[:-1]), "150 inputs and 149 targets.*one target for each row"),
        ((object(), Y), "neither a tensor.*DataFrame"),
        ((torch.tensor(1.0), Y), "no dimension for rows"),
        ((X, 3), "no dimension for rows"),
        (((), Y), "hold no tensor"),
    ],
)
def test_data_of_another_kind(data, why):
    with pytest.raises(DataError, match=why) as caught:
        split(data)
    assert caught.value.where == "split 'validation'"
    assert caught.value.remedy


def test_rows_without_targets():
    rows = split((X, None), name="train")
    assert not rows.labelled and split((X, Y)).labelled and len(rows) == len(X)
    assert [tuple(targets.shape) for _, targets in rows.flat_batches(100)] == [(100, 0), (50, 0)]
    inputs, _ = rows.take(torch.tensor([3, 1]))
    assert torch.equal(inputs[0], X[[3, 1]])
    assert rows.digest != split((X + 1, None)).digest
    with pytest.raises(DataError, match=r"the metric needs targets, and the rows have none. Where: split 'train'"):
        rows.targets  # noqa: B018


@pytest.mark.parametrize(
    "data", [(X[:0], Y[:0]), Rows(count=0), [], DataLoader(Rows(count=0)), TensorDataset(X[:0], Y[:0])]
)
def test_an_empty_split(data):
    with pytest.raises(DataError, match=r"the split is empty.*Where: split 'test'.*at least one row"):
        split(data, name="test")


@pytest.mark.parametrize("wrapped", [lambda data: data, lambda data: DataLoader(data, batch_size=8)])
def test_a_stream_that_can_be_read_only_once_is_refused_when_it_is_read_again(wrapped):
    class Once(IterableDataset):
        def __init__(self):
            self.rows = iter(Stream())

        def __iter__(self):
            return self.rows

    one = split(wrapped(Once()))
    assert len(list(one.batches(64, 20))) == 1
    with pytest.raises(DataError, match=r"nothing when it was read again.*a generator can be read only once"):
        for _ in range(20):
            list(one.batches(64))
    with pytest.raises(DataError, match="nothing when it was read again"):
        len(one)


def test_an_empty_stream():
    one = split(Stream(()))
    with pytest.raises(DataError, match="the split is empty"):
        len(one)


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(Rows(), sampler=SubsetRandomSampler(range(5))),
        DataLoader(Rows(), sampler=WeightedRandomSampler([1.0] * N, N)),
        DataLoader(Rows(), sampler=list(range(5))),  # type: ignore[arg-type]
    ],
)
def test_a_sampler_of_another_kind(loader):
    with pytest.raises(
        DataError, match=r"loader's sampler is a \w+, whose order can't be fixed.*Subset\(dataset, indices\)"
    ):
        split(loader)


def test_a_batch_sampler_of_another_kind():
    class Buckets(BatchSampler):
        pass

    loader = DataLoader(Rows(), batch_sampler=Buckets(SequentialSampler(Rows()), 4, False))
    with pytest.raises(DataError, match=r"batch_sampler is a Buckets, whose order can't be fixed.*shuffle=False"):
        split(loader)


def test_a_loader_that_shuffles_batches_of_its_own_sampler_is_read_in_order():
    shuffling(drop_last=True)


@pytest.mark.parametrize(
    ("item", "why"),
    [
        (lambda index: X[index], "an item is a Tensor, not .inputs, target."),
        (lambda index: (X[index], X[index], 0), "an item is a tuple of 3"),
        (lambda index: {"x": X[index], "label": 0}, "an item is a dict"),
        (lambda index: (object(), 0), "reading failed with TypeError"),
        (lambda index: (torch.zeros(index + 1), 0), "reading failed with RuntimeError"),
        (lambda index: (X[index], "cat"), "a batch is not of tensors"),
        (lambda index: 1 / 0, "reading failed with ZeroDivisionError: division by zero"),
    ],
)
def test_items_that_can_not_be_used(item, why):
    with pytest.raises(DataError, match=why) as caught:
        next(split(Rows(item)).batches(4))
    assert caught.value.where == "split 'validation', rows 0 to 3"
    assert caught.value.remedy


def test_a_row_that_fails_is_named():
    def item(index):
        if index == 70:
            raise OSError("file is truncated")
        return X[index], 0

    with pytest.raises(DataError, match="OSError: file is truncated") as caught:
        _ = split(Rows(item)).digest
    assert caught.value.where == "split 'validation', rows 64 to 127"


def test_a_collate_function_that_loses_rows():
    def lose(items):
        return X[:2], Y[:3]

    with pytest.raises(DataError, match=r"shape \(2, 3\) and targets \(3,\).*one target for each row"):
        next(split(DataLoader(Rows(), collate_fn=lose)).batches(4))


def test_targets_of_different_shapes():
    one = split(DataLoader(Rows(), collate_fn=lambda items: (X[: len(items)], torch.zeros(len(items), len(items)))))
    with pytest.raises(DataError, match="targets have different shapes in different batches"):
        _ = one.targets


def test_a_batch_of_no_rows_is_refused():
    with pytest.raises(DataError, match="a batch of 0 rows"):
        next(split((X, Y)).batches(0))


def test_random_augmentation_is_seen_and_does_not_move_the_digest():
    noisy = Rows(lambda index: (X[index] + torch.rand(3), Y[index]))
    one, again = split(noisy), split(noisy)
    assert one.digest == again.digest
    assert not one.same_again()
    python = split(Rows(lambda index: (X[index] + random.random(), Y[index])))
    assert not python.same_again()


def test_fixed_rows_are_the_same_again():
    for kind, one in all_kinds().items():
        assert one.same_again(), kind


def test_a_stream_without_an_order_is_seen():
    one = split(Shuffled())
    before = one.digest
    assert not one.same_again()
    assert one.digest == before


def test_reading_leaves_the_random_generators_as_they_were():
    def states():
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002

    before = states()
    with fixed_random():
        torch.rand(3)
        random.random()
        np.random.rand(3)  # noqa: NPY002
    assert states() == before
    _ = split(Rows(lambda index: (X[index] + torch.rand(3), Y[index]))).digest
    assert states() == before


def test_targets_of_arrays_need_no_reading(monkeypatch):
    one = split((X, Y))
    monkeypatch.setattr(one, "scan", lambda: pytest.fail("inputs were read"))
    assert np.array_equal(one.targets, Y.numpy())
    assert len(one) == N


def test_repr_says_name_and_rows():
    assert repr(split((X, Y))) == "Split('validation', 150 rows)"
    assert repr(split(Stream())) == "Split('validation', rows not counted yet)"


def test_a_sequential_loader_is_not_warned_about():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        split(DataLoader(Rows(), batch_size=4))
