"""EfficientNet-Lite0 of torch's own layers alone, for peers that look for these: same weights, same outputs."""

from __future__ import annotations

from torch import Tensor, nn

STAGES = (
    (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)  # fmt: skip
"""Expansion, channels, blocks, stride of the first block, kernel."""
STEM, HEAD, CLASSES, EPSILON = 32, 1280, 1000, 1e-3


class PlainLite(nn.Module):
    """3 x 224 x 224 in, 1,000 logits out; its tensors come in the order of `bench.models.efficientnet_lite`."""

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        width = STEM
        for expansion, channels, count, stride, kernel in STAGES:
            for number in range(count):
                blocks.append(_Block(width, channels, expansion, stride if number == 0 else 1, kernel))
                width = channels
        self.stem = nn.Sequential(*_convolution(3, STEM, 3, 2), nn.ReLU6())
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(*_convolution(width, HEAD, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classes = nn.Linear(HEAD, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.classes(self.head(self.blocks(self.stem(x))))


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, kernel: int) -> None:
        super().__init__()
        wide = inputs * expansion
        expand = [*_convolution(inputs, wide, 1), nn.ReLU6()] if expansion > 1 else []
        depthwise = [*_convolution(wide, wide, kernel, stride, wide), nn.ReLU6()]
        self.layers = nn.Sequential(*expand, *depthwise, *_convolution(wide, outputs, 1))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Zeros go behind the image where it shrinks, as TensorFlow puts them, else around it."""
    before, after = (kernel - 2) // 2, kernel // 2
    pad = [nn.ZeroPad2d((before, after, before, after))] if stride > 1 else []
    around = 0 if stride > 1 else kernel // 2
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, around, groups=groups, bias=False)
    return [*pad, convolution, nn.BatchNorm2d(outputs, eps=EPSILON)]


def plain(tensors: list[Tensor]) -> PlainLite:
    """Return the network with the tensors of a state dict, in order."""
    model = PlainLite()
    names = list(model.state_dict())
    model.load_state_dict(dict(zip(names, tensors, strict=True)))
    return model.eval()
