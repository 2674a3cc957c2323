"""One model of torchvision cut by Torch-Pruning as its own examples cut it, run as a process: some never end.

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

from bench.reach_vision import SHARE, SIZES, load_torchvision, model_named

tp: Any = importlib.import_module("torch_pruning")
RATIOS = (0.23, 0.3, 0.4, 0.5)
"""Of the channels; the next is tried until the share of the MACs is gone."""
CLASSES = 1000


def cut(model: nn.Module, x: torch.Tensor, ratio: float) -> nn.Module:
    """Return a cut copy; a ViT keeps whole heads, and its width is written anew where its forward reads it."""
    model = copy.deepcopy(model)
    transformer = type(model).__name__ == "VisionTransformer"
    heads = model.encoder.layers[0].num_heads if transformer else None  # type: ignore[union-attr, index]
    pruner = tp.pruner.BasePruner(
        model,
        x,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        round_to=heads,
        ignored_layers=[m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == CLASSES],
    )
    pruner.step()
    if transformer:
        model.hidden_dim = model.conv_proj.out_channels  # type: ignore[union-attr]
    return model


def reach(models: Any, name: str) -> dict[str, Any]:
    """Cut one model by more and more until the share is gone; return what came of it."""
    model, size = model_named(models, name), SIZES.get(name, 224)
    if hasattr(model, "aux_logits"):
        model.aux_logits = False  # type: ignore[assignment]
    x = torch.randn(1, 3, size, size)
    whole, _ = tp.utils.count_ops_and_params(model, x)
    reached = 0.0
    for ratio in RATIOS:
        small = cut(model, x, ratio)
        with torch.no_grad():
            for rows in (1, 3):
                shape = tuple(small(torch.randn(rows, 3, size, size)).shape)
                if shape != (rows, CLASSES):
                    return {"runs": False, "reached": 0.0, "told": f"gives {shape} for {rows} rows"}
        left, _ = tp.utils.count_ops_and_params(small, x)
        reached = 1 - left / whole
        if reached >= SHARE:
            break
    return {"runs": True, "reached": reached, "told": ""}


def main() -> None:
    """Print what came of one model as a line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.peer_reach", description=__doc__)
    parser.add_argument("--torchvision", type=Path, required=True)
    parser.add_argument("--tools", type=Path, required=True)
    parser.add_argument("model")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    models = load_torchvision(options.torchvision, options.tools)
    try:
        found = reach(models, options.model)
    except Exception as error:  # whatever it raises is what a user of it would see
        lines = str(error).strip().splitlines() or [""]
        found = {"runs": False, "reached": 0.0, "told": f"{type(error).__name__}: {lines[0][:200]}"}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
