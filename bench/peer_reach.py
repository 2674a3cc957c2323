"""One model cut by Torch-Pruning as its own examples cut it, run as a process: some never end.

It is asked for less than leanly: the cut network must run at two batch sizes and give logits of the right shape.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.reach import SHARES, Example, load_torchvision, model_named, rows_for

tp: Any = importlib.import_module("torch_pruning")
RATIOS = (0.1, 0.16, 0.23, 0.3, 0.4, 0.5, 0.6)
"""Of the channels; the next is tried until the share of the MACs is gone."""
PROJECTIONS = ("query", "key", "value")


def attentions(model: nn.Module) -> list[nn.Module]:
    """Return the modules of transformers whose three projections are cut by whole heads, as its examples do."""
    return [
        module
        for module in model.modules()
        if hasattr(module, "num_attention_heads")
        and all(isinstance(getattr(module, name, None), nn.Linear) for name in PROJECTIONS)
    ]


def cut(model: nn.Module, example: Example, ratio: float, classes: int) -> nn.Module:
    """Return a cut copy; attention keeps whole heads, and what a forward reads of widths is written anew."""
    model = copy.deepcopy(model)
    transformer = type(model).__name__ == "VisionTransformer"
    heads = model.encoder.layers[0].num_heads if transformer else None  # type: ignore[union-attr, index]
    several = attentions(model)
    outputs = [
        module
        for module in model.modules()
        if getattr(module, "out_features", getattr(module, "out_channels", 0)) == classes
    ]
    pruner = tp.pruner.BasePruner(
        model,
        example.get("x", example),
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        round_to=heads,
        ignored_layers=outputs,
        num_heads={getattr(module, name): module.num_attention_heads for module in several for name in PROJECTIONS},
        prune_head_dims=False,
        prune_num_heads=bool(several),
        head_pruning_ratio=ratio,
    )
    pruner.step()
    if transformer:
        model.hidden_dim = model.conv_proj.out_channels  # type: ignore[union-attr]
    for module in several:
        module.num_attention_heads = pruner.num_heads[module.query]  # type: ignore[index, assignment]
        module.all_head_size = module.query.out_features  # type: ignore[union-attr, assignment]
        module.attention_head_size = module.all_head_size // module.num_attention_heads  # type: ignore[operator, assignment]
    return model


def reach(models: Any, name: str) -> dict[str, Any]:
    """Cut one model by more and more until each share is gone; return what was reached for each."""
    model, example = model_named(models, name)
    if hasattr(model, "aux_logits"):
        model.aux_logits = False  # type: ignore[assignment]
    whole = _macs(model, example)
    classes = _run(model, example).shape[1]
    cuts: dict[str, float] = {}
    ratios = iter(RATIOS)
    reached = 0.0
    for share in SHARES:
        while reached < share:
            ratio = next(ratios, None)
            if ratio is None:
                return {"cuts": cuts, "told": f"{reached:.3f} is the most that left"}
            small = cut(model, example, ratio, classes)
            for rows in (1, 3):
                shape = tuple(_run(small, rows_for(models, name, rows)).shape)
                if shape != (rows, classes):
                    return {"cuts": cuts, "told": f"gives {shape} for {rows} rows"}
            reached = 1 - _macs(small, example) / whole
        cuts[str(share)] = reached
    return {"cuts": cuts, "told": ""}


def _run(model: nn.Module, example: Example) -> torch.Tensor:
    with torch.no_grad():
        return model(example["x"]) if "x" in example else model(**example)


def _macs(model: nn.Module, example: Example) -> float:
    return tp.utils.count_ops_and_params(model, example.get("x", example))[0]


def main() -> None:
    """Print what came of one model as a line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.peer_reach", description=__doc__)
    parser.add_argument("--torchvision", type=Path)
    parser.add_argument("--tools", type=Path)
    parser.add_argument("model")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    models = load_torchvision(options.torchvision, options.tools) if options.torchvision else None
    try:
        found = reach(models, options.model)
    except Exception as error:  # whatever it raises is what a user of it would see
        lines = str(error).strip().splitlines() or [""]
        found = {"cuts": {}, "told": f"{type(error).__name__}: {lines[0][:200]}"}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
