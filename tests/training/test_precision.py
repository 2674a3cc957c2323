import pytest
import torch
from torch import nn

import leanly
from leanly.errors import LeanlyWarning
from leanly.graph import capture
from leanly.training import Settings
from leanly.training.precision import chosen_dtype, placed, run, takes_channels_last
from tests.training.models import Net, image_task


class Machine:
    def __init__(self, bf16: bool) -> None:
        self.bf16 = bf16


def test_bfloat16_where_the_machine_multiplies_in_it():
    graph = capture(Net(), example=torch.randn(2, 2, 8, 8))
    assert chosen_dtype(graph, "auto", Machine(True)) == torch.bfloat16
    assert chosen_dtype(graph, "auto", Machine(False)) == torch.float32
    assert chosen_dtype(graph, "float32", Machine(True)) == torch.float32
    assert chosen_dtype(graph, "bfloat16", Machine(False)) == torch.bfloat16


def test_products_run_in_bfloat16_and_outputs_come_in_their_own():
    graph = capture(Net().eval(), example=torch.randn(2, 2, 8, 8))
    x = torch.randn(5, 2, 8, 8)
    exact, rounded = run(graph, [x], torch.float32)[0], run(graph, [x], torch.bfloat16)[0]
    assert rounded.dtype == torch.float32 and not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, rtol=0.05, atol=0.05)
    torch.testing.assert_close(rounded, rounded.bfloat16().float(), rtol=0, atol=0)


def test_images_lie_channels_last_only_where_nothing_reads_strides():
    class Strided(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 1)

        def forward(self, x):
            return torch.view_as_complex(self.conv(x).permute(0, 2, 3, 1).contiguous()).abs()

    x = torch.randn(2, 2, 8, 8)
    assert takes_channels_last(capture(Net(), example=x))
    assert not takes_channels_last(capture(Strided(), example=x))
    assert not takes_channels_last(capture(nn.Flatten(), example=x))
    one, other = placed([x, x[0]], torch.device("cpu"), True)
    assert one.is_contiguous(memory_format=torch.channels_last) and torch.equal(one, x) and other.is_contiguous()


class Mixed(nn.Module):
    """Writes a product into a buffer of ones by index: that takes no mixture of dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        rows = torch.arange(x.shape[0], device=x.device)
        return torch.ones_like(x).index_put((rows,), self.layer(x))


def test_a_network_that_refuses_bfloat16_is_trained_in_float32_and_says_so():
    x = torch.randn(32, 4)
    task = leanly.Task(Mixed().eval(), example=x[:2], train=(x, x), loss="mse", metric="mse")
    with pytest.warns(LeanlyWarning, match=r"can't be trained in bfloat16 \(.*float32 is used"):
        trained = leanly.train(task, epochs=1, settings=Settings(precision="bfloat16", batch_size=8))
    plain = leanly.train(task, epochs=1, settings=Settings(precision="float32", batch_size=8))
    assert torch.equal(trained(x), plain(x))


def test_weights_stay_float32():
    trained = leanly.train(image_task(), epochs=1, settings=Settings(precision="bfloat16", batch_size=16))
    assert {parameter.dtype for parameter in trained.parameters()} == {torch.float32}
