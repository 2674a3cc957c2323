"""Light augmentation of images: the same operations as plain functions of a batch and a random generator."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional

from leanly.errors import SettingError
from leanly.graph import Graph


def crop(images: Tensor, generator: Generator) -> Tensor:
    """Shift each image by up to an eighth of its smaller side, zeros moving in."""
    rows, _, height, width = images.shape
    reach = max(1, min(height, width) // 8)
    padded = functional.pad(images, (reach,) * 4).permute(0, 2, 3, 1).contiguous()
    down, right = torch.randint(0, 2 * reach + 1, (2, rows, 1, 1), generator=generator)
    y, x = down + torch.arange(height)[:, None], right + torch.arange(width)[None, :]
    return padded[torch.arange(rows)[:, None, None], y, x].permute(0, 3, 1, 2)


def flip(images: Tensor, generator: Generator) -> Tensor:
    """Mirror each image left to right with probability 1/2."""
    chosen = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(3), images)


AUGMENTATIONS: dict[str, Callable[[Tensor, Generator], Tensor]] = {
    function.__name__: function for function in (crop, flip)
}


def image_inputs(graph: Graph) -> tuple[int, ...]:
    """Return the positions of the inputs that are images: floats of `(rows, channels, height, width)`."""
    return tuple(
        position
        for position, spec in enumerate(graph.inputs)
        if len(spec.shape) == 4 and spec.shape[0] == "batch" and spec.dtype in ("float32", "float64")
    )


def check_augment(graph: Graph, operations: tuple[str, ...]) -> None:
    """Raise a SettingError where operations are asked for and no input is an image."""
    if operations and not image_inputs(graph):
        told = ", ".join(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in graph.inputs)
        raise SettingError(
            f"augment={operations!r} needs images of (rows, channels, height, width), and the inputs are {told}",
            where="Settings.augment",
            remedy="leave augment out, or augment in your Dataset",
        )


def augmented(inputs: list[Tensor], positions: tuple[int, ...], operations: tuple[str, ...], seed: int) -> list[Tensor]:
    """Return the inputs with the operations done to those at `positions`, several of them alike."""
    result = list(inputs)
    for position in positions:
        generator = torch.Generator().manual_seed(seed)
        for operation in operations:
            result[position] = AUGMENTATIONS[operation](result[position], generator)
    return result
