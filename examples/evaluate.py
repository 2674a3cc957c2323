"""Evaluation of two models against each other: cost, latency in turns, and the paired drop in accuracy."""

import numpy as np
from sklearn.datasets import load_digits
from torch import nn

import leanly

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)
wide = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 10))
deep = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def artifact(name: str, model: nn.Module) -> tuple[leanly.Artifact, leanly.Task]:
    task = leanly.Task(
        model.eval(),
        example=images[:2],
        train=(images[:1000], labels[:1000]),
        validation=(images[1000:], labels[1000:]),
    )
    graph = leanly.train(task, epochs=40)
    cost = graph.cost()
    print(f"{name}: {cost.macs:,} MACs, {cost.parameters:,} parameters, {cost.parameter_bytes:,} bytes")
    return leanly.lower(graph, runtime="onnxruntime", to=f"runs/evaluate/{name}"), task


def main() -> None:
    (a, task), (b, _) = artifact("wide", wide), artifact("deep", deep)
    found = leanly.compare(a, b, leanly.Target("cpu", batch_sizes=(1, 16)), task, seconds=1.0)
    for size, ratio in found.ratio.items():
        print(f"batch {size}: wide takes {ratio.value:.2f}x ({ratio.low:.2f} to {ratio.high:.2f}) the time of deep")
    if found.drop is not None:
        drop = found.drop.drop
        print(f"wide loses {100 * drop.value:.2f} points ({100 * drop.low:.2f} to {100 * drop.high:.2f}) against deep")


if __name__ == "__main__":
    main()
