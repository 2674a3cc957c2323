"""What every situation goes through: cut, compared with zeroing, saved, cut again, trained, opened, lowered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import leanly
from bench.zeroing import zeroed as zeroed
from leanly.graph import Graph, capture, tensors
from leanly.graph.example import Example
from leanly.prune import Channels


def scrambled(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter and statistic values that show when they are mixed up, and return the model evaluating."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in tensors.every(model).items():
            if not tensor.is_floating_point() or (not isinstance(tensor, nn.Parameter) and "running" not in name):
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if tensor.ndim > 1:
                tensor.copy_(noise / tensor[0].numel() ** 0.5)
            elif name.endswith("weight") or "var" in name:
                tensor.copy_(1 + 0.3 * noise.tanh())
            else:
                tensor.copy_(0.3 * noise)
    return model.eval()


def batches(graph: Graph) -> list[tuple[Tensor, ...]]:
    """Return the example with 1, 3 and 8 rows; at 3, other dimensions that vary have another length."""
    example = Example(graph.example, graph.inputs, graph.arguments)
    return [example.sized(rows, example.shift if rows == 3 else 0) for rows in (1, 3, 8)]


def same(found: Graph, expected: Graph) -> None:
    """Outputs are equal to float32 tolerance at three batch sizes."""
    for leaves in batches(expected):
        with torch.no_grad():
            for one, other in zip(found.flat(*leaves), expected.flat(*leaves), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * max(1.0, float(other.abs().max())))


def differs(found: Graph, expected: Graph) -> None:
    """The cut shows, so that agreement with zeroing means something."""
    leaves = batches(expected)[2]
    with torch.no_grad():
        pairs = zip(found.flat(*leaves), expected.flat(*leaves), strict=True)
        assert max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs) > 1e-3


def cut_shares(graph: Graph, small: Graph) -> dict[str, list[float]]:
    """Return for each parameter that was cut the share that left along each dimension."""
    before = tensors.every(graph.module)
    return {
        name: [0.0 if one is None else 1 - len(one) / size for one, size in zip(kept, before[name].shape, strict=True)]
        for name, kept in small.kept.items()
    }


def operate(
    model: nn.Module,
    example: Any,
    tmp_path: Path,
    elsewhere: Callable[[Path], None],
    *,
    normalized: bool = False,
    macs: float | None = 0.4,
    lowered: bool = False,
    **settings: Any,
) -> tuple[Graph, Graph]:
    """Take a network through everything; return its graph and the graph cut by half.

    Lowering takes the longest: some networks of each kind stand for all here, `bench.reach` lowers whole corpora.
    """
    torch.manual_seed(0)
    graph = capture(scrambled(model), example=example, **settings)
    before = graph.fingerprint()
    halves = None
    for fraction in (0.3, 0.5):
        halves = Channels(fraction=fraction, normalized=normalized)(graph)
        differs(halves, graph)
        same(halves, zeroed(graph, halves))
    assert halves is not None and graph.fingerprint() == before, "a pass never changes its input"
    if macs is not None:
        small = Channels(macs=macs, normalized=normalized)(graph)
        same(small, zeroed(graph, small))
        assert abs(1 - small.cost().macs / graph.cost().macs - macs) <= 0.1 * macs
    halves.save(tmp_path / "graph")
    again = Channels(fraction=0.3, normalized=normalized)(Graph.open(tmp_path / "graph"))
    same(again, zeroed(graph, again))
    assert sum(tensor.numel() for tensor in again.parameters()) < sum(tensor.numel() for tensor in halves.parameters())
    trained = _one_step(again)
    _opened_elsewhere(trained, tmp_path, elsewhere)
    if lowered:
        assert leanly.lower(trained, runtime="onnxruntime", to=tmp_path / "artifact").bytes > 0
    return graph, halves


def _one_step(graph: Graph) -> Graph:
    """Train one step; every parameter that is read gets a gradient, and moves."""
    graph = graph.clone().train()
    optimizer = torch.optim.SGD(graph.parameters(), lr=1e-3)
    sum(output.square().mean() for output in graph.flat(*batches(graph)[2]) if output.is_floating_point()).backward()  # type: ignore[union-attr]
    read = {str(node.target) for node in graph.module.graph.nodes if node.op == "get_attr" and node.users}
    for name, parameter in graph.named_parameters():
        assert name not in read or parameter.grad is not None, name
    optimizer.step()
    return graph.eval()


def _opened_elsewhere(graph: Graph, tmp_path: Path, elsewhere: Callable[[Path], None]) -> None:
    graph.save(tmp_path / "graph")
    leaves = batches(graph)[1]
    save_file({str(place): leaf.contiguous() for place, leaf in enumerate(leaves)}, tmp_path / "inputs.safetensors")
    elsewhere(tmp_path)
    found = load_file(tmp_path / "outputs.safetensors")
    with torch.no_grad():
        for place, expected in enumerate(graph.flat(*leaves)):
            torch.testing.assert_close(found[str(place)], expected)
    assert str(Graph.open(tmp_path / "graph").kept) == str(graph.kept)


def kept_state(graph: Graph, small: Graph) -> dict[str, Tensor]:
    """Return the state dict of the graph with only what `small.kept` says remains, for a module built smaller."""
    state = {name: tensor.clone() for name, tensor in graph.state_dict().items()}
    for name, kept in small.kept.items():
        if name in state:
            for dim, indices in enumerate(kept):
                state[name] = state[name] if indices is None else state[name].index_select(dim, indices)
    return state
