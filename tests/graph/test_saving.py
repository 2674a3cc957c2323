import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import leanly
from leanly.errors import BundleError, RunError, SettingError
from leanly.files import digest, sha256
from leanly.graph import Graph, capture
from tests.graph.models import Normalized, close


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(4, 5, batch_first=True)
        self.register_buffer("scale", torch.tensor([2.0]), persistent=False)
        self.norm = nn.LayerNorm(5)

    def forward(self, x):
        states, last = self.rnn(x)
        return {"states": self.norm(states) * self.scale, "last": last.squeeze(0).clamp(max=float("inf")), "none": None}


@pytest.fixture(scope="module")
def graph() -> Graph:
    return capture(Normalized().eval(), example=torch.randn(2, 3, 8, 8))


@pytest.fixture
def folder(graph, tmp_path):
    graph.save(tmp_path / "graph")
    return tmp_path / "graph"


def _altered(folder, change, *, sealed: bool = True) -> None:
    """Change the description, and seal it again as one who wants to be believed would."""
    content = json.loads((folder / "graph.json").read_text())
    change(content)
    if sealed:
        content.pop("digest", None)
        for name in content["files"]:
            content["files"][name] = sha256(folder / name)
        content["digest"] = digest(content)
    (folder / "graph.json").write_text(json.dumps(content))


def test_it_comes_back_the_same_and_trains(graph, folder):
    graph.kept["head.weight"] = (None, torch.tensor([0, 2]))
    graph.kept["gone"] = None
    graph.save(folder)
    again = Graph.open(folder)
    assert again.fingerprint() == graph.fingerprint()
    x = torch.randn(5, 3, 8, 8)
    assert torch.equal(again(x), graph(x))
    assert (again.inputs, again.outputs, again.notes) == (graph.inputs, graph.outputs, graph.notes)
    assert again.kept["gone"] is None and again.kept["head.weight"][1].tolist() == [0, 2]
    assert torch.equal(again.example[0], graph.example[0])
    assert list(again.state_dict()) == list(graph.state_dict())
    assert [again.source(n) for n in again.module.graph.nodes] == [graph.source(n) for n in graph.module.graph.nodes]
    again.train()(x).sum().backward()
    assert all(parameter.grad is not None for parameter in again.parameters())
    graph.kept.clear()


def test_a_fresh_process_without_the_class_computes_the_same(tmp_path):
    model = Recurrent().eval()
    saved = capture(model, example=torch.randn(2, 6, 4))
    saved.save(tmp_path / "graph")
    x = torch.randn(3, 6, 4)
    save_file({"x": x}, tmp_path / "x.safetensors")
    code = (
        "import sys, torch\n"
        "from safetensors.torch import load_file, save_file\n"
        "from leanly.graph import Graph\n"
        "graph = Graph.open(sys.argv[1] + '/graph')\n"
        "out = graph(load_file(sys.argv[1] + '/x.safetensors')['x'])\n"
        "assert out.pop('none') is None\n"
        "save_file({k: v.detach().contiguous() for k, v in out.items()}, sys.argv[1] + '/y.safetensors')\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    found = load_file(tmp_path / "y.safetensors")
    for name, expected in model(x).items():
        if expected is not None:
            close(found[name], expected)


def test_an_input_with_a_name_of_pythons_own(tmp_path):
    saved = capture(nn.Linear(4, 2).eval(), example=torch.randn(2, 4))
    saved.save(tmp_path / "graph")
    again = Graph.open(tmp_path / "graph")
    x = torch.randn(3, 4)
    assert again.inputs[0].name == "input" and torch.equal(again(x), saved(x))


def test_the_mode_is_kept(graph, tmp_path):
    graph.clone().train().save(tmp_path / "graph")
    again = Graph.open(tmp_path / "graph")
    assert again.training
    x = torch.randn(4, 3, 8, 8)
    assert not torch.equal(again(x), again(x))
    again = Graph.open(tmp_path / "graph").eval()
    assert torch.equal(again(x), graph(x))


def test_a_save_over_an_older_graph_replaces_it_and_leaves_nothing_beside(graph, folder):
    graph.save(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "example.safetensors",
        "graph.json",
        "weights.safetensors",
    ]
    assert [path.name for path in folder.parent.iterdir()] == ["graph"]


@pytest.mark.parametrize("name", ["graph.json", "weights.safetensors", "example.safetensors"])
def test_a_torn_altered_or_missing_file_is_named(folder, name):
    path = folder / name
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], _flipped(whole), b""):
        path.write_bytes(content)
        with pytest.raises(BundleError, match=name.replace(".", r"\.")):
            Graph.open(folder)
    path.unlink()
    with pytest.raises(BundleError, match=f"missing.*{name}"):
        Graph.open(folder)


def _flipped(content: bytes) -> bytes:
    """Change a letter that leaves JSON valid (in a name), or a bit in the middle of the numbers."""
    if content.startswith(b"{"):
        return content.replace(b'"conv2d"', b'"conv3d"')
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


def test_a_newer_format_says_so(folder):
    _altered(folder, lambda content: content.update(format=99))
    with pytest.raises(BundleError, match="format 99"):
        Graph.open(folder)


@pytest.mark.parametrize(
    "target",
    [
        "aten.from_file.default",
        "aten.save.default",
        "aten.set_.source_Tensor",
        "aten.relu_.default",
        "os.system",
        "builtins.eval",
        "operator.attrgetter",
        "torch.load",
        "aten.__class__.mro",
        "prims.add.default",
        "higher_order.cond.default",
        "aten.no_such.default",
    ],
)
def test_an_operator_that_is_not_a_graphs_is_refused(folder, target):
    def change(content):
        node = next(node for node in content["nodes"] if node["target"] == "aten.relu.default")
        node["target"] = target

    _altered(folder, change)
    with pytest.raises(BundleError, match=f"{target!r}.*graph.json"):
        Graph.open(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["nodes"][-2].update(name="a, *b"),
        lambda c: c["nodes"][-2].update(name="a\nimport os\n"),
        lambda c: c["nodes"][0].update(target="conv.weight')); print(1)"),
        lambda c: c["nodes"][-2]["kwargs"].update({"a=print(1), b": 1}),
        lambda c: c["nodes"][-2]["args"].append({"eval": "1"}),
        lambda c: c["nodes"][-2]["args"].append({"node": "nowhere"}),
        lambda c: c["nodes"].pop(),
        lambda c: c["inputs"].pop(),
        lambda c: c.update(returns=1),
        lambda c: c.update(returns={"call": [0]}),
        lambda c: c.pop("tensors"),
        lambda c: c.update(nodes="none"),
    ],
)
def test_a_description_made_by_hand_is_refused(folder, change):
    _altered(folder, change)
    with pytest.raises(BundleError, match=r"graph\.json"):
        Graph.open(folder)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda w: w.pop("conv.bias"), "missing: conv.bias"),
        (lambda w: w.update(extra=torch.zeros(1)), "not declared: extra"),
        (lambda w: w.update({"conv.bias": torch.zeros(9)}), "conv.bias is"),
        (lambda w: w.update({"conv.bias": torch.zeros(8, dtype=torch.float64)}), "conv.bias is"),
    ],
)
def test_tensors_that_are_not_those_declared_are_refused(folder, change, match):
    path = folder / "weights.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)
    _altered(folder, lambda content: None)
    with pytest.raises(BundleError, match=match + ".*weights.safetensors"):
        Graph.open(folder)


def test_nothing_is_pickled(folder):
    for path in folder.iterdir():
        assert path.suffix in (".json", ".safetensors")
        assert b"PK\x03\x04" not in path.read_bytes()[:4] and path.read_bytes()[:1] != b"\x80"


def test_a_file_in_place_of_the_folder_and_endless_brackets_are_refused(folder):
    with pytest.raises(BundleError, match=r"can't be read .*name the folder"):
        leanly.Graph.open(folder / "graph.json")
    (folder / "graph.json").write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(BundleError, match="not valid JSON"):
        leanly.Graph.open(folder)


def test_what_is_no_graph_is_not_written_over(tmp_path):
    graph = capture(nn.Linear(3, 2).eval(), example=torch.randn(2, 3))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    for place in ("mine", "file"):
        with pytest.raises(RunError, match=r"not a graph.*name a folder that does not exist"):
            graph.save(tmp_path / place)
        with pytest.raises(RunError, match="not an artifact"):
            leanly.lower(graph, to=tmp_path / place)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == (tmp_path / "file").read_text() == "x"
    (tmp_path / "empty").mkdir()
    for _ in range(2):  # an older graph is replaced
        graph.save(tmp_path / "empty")


def test_something_else_than_a_path_is_refused():
    with pytest.raises(SettingError, match="the folder is None"):
        Graph.open(None)  # type: ignore[arg-type]
