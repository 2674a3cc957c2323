"""Padding left out in training: only where it changes nothing, and then training goes the same way."""

import pytest
import torch
from torch import Tensor, nn

import leanly
from leanly.data import Split
from leanly.distill import Distill
from leanly.training import Settings, padding
from leanly.training.padding import Padding, find_padding
from leanly.training.rows import Rows

LENGTH, WORDS = 40, 30


class Text(nn.Module):
    """Attention over positions and words, then the mean over the words that a mask says are there."""

    def __init__(self, masked: bool = True, each: bool = False, width: int = 16) -> None:
        super().__init__()
        self.masked, self.each, self.width = masked, each, width
        self.words, self.places = nn.Embedding(WORDS, width), nn.Parameter(torch.randn(LENGTH, width))
        self.qkv, self.head = nn.Linear(width, 3 * width), nn.Linear(width, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        states = self.words(ids) + self.places[: ids.shape[1]]
        query, key, value = self.qkv(states).view(-1, LENGTH, 3, self.width).unbind(2)
        seen = mask[:, None, :].bool() if self.masked else None
        states = states + nn.functional.scaled_dot_product_attention(query, key, value, seen)
        if self.each:
            return self.head(states)
        weight = mask[:, :, None].float()
        return self.head((states * weight).sum(1) / weight.sum(1))


def rows(count: int, longest: int = 20, seed: int = 0) -> tuple[tuple[Tensor, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, longest + 1, (count,), generator=generator)
    mask = (torch.arange(LENGTH) < lengths[:, None]).long()
    ids = torch.randint(1, WORDS, (count, LENGTH), generator=generator) * mask
    return (ids, mask), ids[:, 0] % 3


def text_task(model: nn.Module, longest: int = 20) -> leanly.Task:
    train, held = rows(96, longest), rows(48, longest, seed=1)
    return leanly.Task(
        model.eval(),
        example=tuple(tensor[:2] for tensor in train[0]),
        train=train,
        validation=held,
        loss="cross_entropy",
    )


def split_of(task: leanly.Task) -> Split:
    split = task.split("train")
    assert split is not None
    return split


def captured(task: leanly.Task) -> leanly.Graph:
    return leanly.capture(task.model, example=task.example)


def found(model: nn.Module, longest: int = 20) -> Padding | None:
    torch.manual_seed(0)
    task = text_task(model, longest)
    return find_padding((captured(task),), split_of(task))


def test_padding_is_found_where_the_network_does_not_look_at_it():
    assert found(Text()) == Padding((0, 1), (0, 0))


@pytest.mark.parametrize(
    ("model", "longest"),
    [(Text(masked=False), 20), (Text(each=True), 20), (Text(), LENGTH)],
    ids=["attention sees it", "an output for each word", "too little of it"],
)
def test_padding_stays_where_it_matters(model, longest):
    (_, mask), _ = rows(32, longest)
    if longest == LENGTH:
        assert mask[:, LENGTH - 8 :].any(), "some row is too long for a multiple of eight to leave"
    assert found(model, longest) is None


def test_images_have_none():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 3))
    task = leanly.Task(
        model.eval(), example=torch.randn(2, 1, 8, 8), train=(torch.randn(8, 1, 8, 8), torch.arange(8) % 3)
    )
    assert find_padding((captured(task),), split_of(task)) is None


def test_no_word_is_left_out():
    found = Padding((0, 1), (0, 0))
    (ids, mask), _ = rows(64)
    for start in range(0, 64, 4):
        whole = [tensor[start : start + 4] for tensor in (ids, mask)]
        short = found.without([*whole, torch.ones(4)])
        length = short[0].shape[1]
        assert length % 8 == 0 and short[1].shape == (4, length) and short[2].shape == (4,)
        assert whole[1][:, :length].sum() == whole[1].sum()
        assert length - 8 < whole[1].sum(1).max() <= length


def test_a_batch_of_padding_alone_keeps_a_few_columns():
    (short,) = Padding((0,), (0,)).without([torch.zeros(3, LENGTH, dtype=torch.long)])
    assert short.shape == (3, 8)


def trained(work, monkeypatch, whole: bool) -> tuple[leanly.Graph, list[int]]:
    """Train and say how long the rows were that the network saw."""
    lengths = []
    without = Padding.without

    def seen(self, inputs):
        short = without(self, inputs)
        lengths.append(short[0].shape[1])
        return short

    with monkeypatch.context() as patch:
        patch.setattr(padding.Padding, "without", seen)
        if whole:
            patch.setattr(Rows, "epoch", lambda self, epoch, start=0: self._picked(epoch, start))
        torch.manual_seed(0)
        task = text_task(Text())
        return work(task), lengths


WAYS = {
    "labels": lambda task: leanly.train(task, epochs=2, settings=Settings(batch_size=8, learning_rate=1e-2)),
    "outputs kept": lambda task: Distill(epochs=2, settings=Settings(batch_size=8))(moved(task), task),
    "hidden values": lambda task: Distill(epochs=2, features=10.0, settings=Settings(batch_size=8))(moved(task), task),
}


def moved(task: leanly.Task) -> leanly.Graph:
    graph = captured(task)
    with torch.no_grad():
        for parameter in graph.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return graph


@pytest.mark.filterwarnings("ignore:The teacher is worse")
@pytest.mark.parametrize("way", WAYS)
def test_training_goes_the_same_way(way, monkeypatch):
    short, lengths = trained(WAYS[way], monkeypatch, whole=False)
    whole, fewer = trained(WAYS[way], monkeypatch, whole=True)
    assert max(lengths) < LENGTH and len(fewer) < len(lengths)
    start = captured(text_task(Text()))
    with torch.no_grad():
        inputs, _ = rows(64, seed=2)
        outputs = [graph(*inputs) for graph in (short, whole, start)]
    # the bias of keys has no gradient but rounding, so weights may differ where outputs do not
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-3, atol=1e-3)
    assert (outputs[0] - outputs[2]).abs().max() > 0.05


def test_rows_of_about_one_length_stand_together():
    split = split_of(text_task(Text()))
    alike, mixed = Rows(split, 8, seed=3, padding=Padding((0, 1), (0, 0))), Rows(split, 8, seed=3)
    order = [batch.rows for batch in alike.epoch(1)]
    assert sorted(torch.cat(order).tolist()) == list(range(96))
    assert not torch.equal(torch.cat(order), torch.cat([batch.rows for batch in alike.epoch(2)]))
    (_, mask), _ = rows(96)
    spread = [int(mask[batch].sum(1).max() - mask[batch].sum(1).min()) for batch in order]
    assert max(spread) <= 4 < min(int(mask[b.rows].sum(1).max() - mask[b.rows].sum(1).min()) for b in mixed.epoch(1))
    assert [batch.rows.tolist() for batch in alike.epoch(1, 7)] == [batch.tolist() for batch in order[7:]]


def test_typical_batches_are_as_long_as_the_mean_of_all():
    found = Rows(split_of(text_task(Text())), 8, seed=3, padding=Padding((0, 1), (0, 0)))
    lengths = [batch.inputs[0].shape[1] for batch in found.epoch(0)]
    typical = [batch.inputs[0].shape[1] for batch in found.typical(3)]
    assert min(lengths) < max(lengths) and all(abs(length - sum(lengths) / 12) <= 8 for length in typical)


def test_the_trained_graph_takes_what_the_first_one_took():
    torch.manual_seed(0)
    task = text_task(Text())
    graph = leanly.train(task, epochs=1, settings=Settings(batch_size=8))
    assert graph.inputs == captured(task).inputs and not graph.training
    (ids, mask), _ = rows(3)
    assert graph(ids, mask).shape == (3, 3)
