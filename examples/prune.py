"""Pruning in its four steps: train, score, prune, verify."""

import numpy as np
from sklearn.datasets import load_digits
from torch import nn

import leanly

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
cnn = nn.Sequential(
    nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
    nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * 16, 10),
).eval()  # fmt: skip


def main() -> None:
    train, validation = (images[:1000], labels[:1000]), (images[1000:], labels[1000:])
    task = leanly.Task(cnn, example=images[:2], train=train, validation=validation)
    # 1. train
    graph = leanly.train(task, epochs=10)
    # 2. score: how much the loss would change without each weight
    saliency = leanly.prune.gradient(graph, task)
    print({name: round(float(scores.mean()), 6) for name, scores in saliency.items()})
    # 3. prune: the least important channels, until 60 % of the MACs are gone, then fine-tune
    small = leanly.prune.Channels(macs=0.6, importance=leanly.prune.gradient)(graph, task)
    small = leanly.train(task, small, epochs=5)
    # 4. verify: what was kept, and the paired comparison of the lowered models
    print({name: [len(left) for left in kept if left is not None] for name, kept in small.kept.items() if kept})
    leanly.report.pruning(graph, small, task, "runs/prune/report.html", progress=print)  # by every criterion
    print("pruned (a) against whole (b):")
    artifacts = [leanly.lower(g, runtime="onnxruntime", to=f"runs/prune/{i}") for i, g in enumerate((small, graph))]
    print(leanly.compare(*artifacts, leanly.Target("cpu", batch_sizes=(1, 16)), task, seconds=1.0))


if __name__ == "__main__":
    main()
