import torch
from torch import nn

from tests.prune.surgery import operate


def double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU(inplace=True),
    )  # fmt: skip


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.middle = double(3, 8), double(8, 12), double(12, 16)
        self.up2, self.join2 = nn.ConvTranspose2d(16, 12, 2, 2), double(24, 12)
        self.up1, self.join1 = nn.Upsample(scale_factor=2, mode="bilinear"), double(20, 8)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        one = self.down1(x)
        two = self.down2(nn.functional.max_pool2d(one, 2))
        x = self.middle(nn.functional.max_pool2d(two, 2))
        x = self.join2(torch.cat([two, self.up2(x)], 1))
        return self.head(self.join1(torch.cat([one, self.up1(x)], 1)))


def test_skips_over_the_valley(tmp_path, elsewhere):
    _, half = operate(UNet(), torch.randn(2, 3, 16, 16), tmp_path, elsewhere)
    skip, up = half.kept["down2.3.weight"][0].tolist(), half.kept["up2.weight"][1].tolist()
    assert half.kept["join2.0.weight"][1].tolist() == skip + [12 + index for index in up]
    assert len(half.kept["up2.weight"][0]) == 8, "a transposed convolution reads along dimension 0"
