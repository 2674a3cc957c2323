"""Integer quantization of a trained CNN: calibrate, lower to integer kernels, compare with float32."""

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
    task = leanly.Task(
        cnn,
        example=images[:2],
        train=(images[:1000], labels[:1000]),
        validation=(images[1000:1300], labels[1000:1300]),
        test=(images[1300:], labels[1300:]),
    )
    graph = leanly.train(task, epochs=10)
    int8 = leanly.quantize.Static(weights=8, activations=8, kernels="openvino")(graph, task)
    before = leanly.lower(graph, runtime="openvino", to="runs/quantize/float32")
    after = leanly.lower(int8, runtime="openvino", to="runs/quantize/int8")
    layers = [kernel for kernel in after.kernels() if kernel.operator in ("Convolution", "FullyConnected")]
    integer = sum(kernel.precision == "int8" for kernel in layers)
    print(f"{integer} of {len(layers)} layers run in integers, {before.bytes:,} bytes before, {after.bytes:,} after")
    print("int8 (a) against float32 (b):")
    print(leanly.compare(after, before, leanly.Target("cpu", batch_sizes=(1, 16)), task, split="test", seconds=1.0))


if __name__ == "__main__":
    main()
