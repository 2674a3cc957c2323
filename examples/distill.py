"""Distillation in its three steps: pre-train a teacher, take a student out of it, fine-tune the student."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import leanly

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
cnn = nn.Sequential(
    nn.Conv2d(1, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
    nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
    nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * 16, 10),
).eval()  # fmt: skip


def main() -> None:
    task = leanly.Task(
        cnn,
        example=images[:2],
        train=(images[:1000], labels[:1000]),
        validation=(images[1000:], labels[1000:]),
    )
    # 1. pre-train the teacher
    teacher = leanly.train(task, epochs=10)
    # 2. take a student out of it: the channels that matter most, an eighth of the work
    student = leanly.prune.Channels(macs=0.875, importance=leanly.prune.magnitude)(teacher, task)
    # 3. fine-tune: softened logits of the teacher, and the labels
    taught = leanly.distill.Distill(teacher=teacher, epochs=10, temperature=4.0, alpha=0.7)(student, task)
    for name, graph in {"teacher": teacher, "student": student, "taught": taught}.items():
        cost, accuracy = graph.cost(), task.score(graph(torch.from_numpy(images[1000:])), labels[1000:])
        print(f"{name}: accuracy {accuracy:.3f}, {cost.macs:,} MACs, {cost.parameters:,} parameters")


if __name__ == "__main__":
    main()
