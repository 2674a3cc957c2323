import pytest
import torch

from leanly.errors import SettingError
from leanly.graph import capture
from leanly.training import Settings
from leanly.training.augmentation import augmented, crop, flip
from leanly.training.stepping import Stepper
from tests.training.models import Net


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_crop_shifts_each_image_and_moves_zeros_in():
    images = torch.rand(64, 3, 16, 24) + 1
    shifted = crop(images, generator())
    shifts = set()
    for one, other in zip(images, shifted, strict=True):
        padded = torch.nn.functional.pad(one, (2, 2, 2, 2))
        found = [
            (y, x) for y in range(5) for x in range(5) if torch.equal(padded[:, y : y + 16, x : x + 24], other)
        ]  # fmt: skip
        assert len(found) == 1
        shifts |= set(found)
    assert len(shifts) > 12, "each image has a shift of its own"


def test_flip_mirrors_about_half():
    images = torch.rand(200, 1, 4, 6)
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(flip(images, generator()), images, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(flip(images, generator()), images, strict=True)]
    assert all(one != other for one, other in zip(mirrored, same, strict=True))
    assert 70 < sum(mirrored) < 130


def test_the_seed_decides_and_other_inputs_are_left():
    images, numbers = torch.rand(8, 3, 16, 16), torch.rand(8, 5)
    once = augmented([numbers, images], (1,), ("crop", "flip"), seed=3)
    again = augmented([numbers, images], (1,), ("crop", "flip"), seed=3)
    other = augmented([numbers, images], (1,), ("crop", "flip"), seed=4)
    assert once[0] is numbers
    assert torch.equal(once[1], again[1]) and not torch.equal(once[1], other[1])


def test_two_images_of_a_row_move_alike():
    images = torch.rand(8, 3, 16, 16)
    left, right = augmented([images, images.clone()], (0, 1), ("crop", "flip"), seed=3)
    assert torch.equal(left, right)


def test_without_images_it_is_refused():
    graph = capture(torch.nn.Linear(4, 2), example=torch.rand(2, 4))
    with pytest.raises(SettingError, match=r"augment=\('flip',\) needs images .* the inputs are input float32"):
        Stepper(graph, lambda outputs, batch: outputs[0].sum(), Settings(augment=("flip",)))
    Stepper(capture(Net(), example=torch.rand(2, 2, 8, 8)), lambda outputs, batch: outputs[0].sum(), Settings())
