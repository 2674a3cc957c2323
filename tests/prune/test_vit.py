import torch
from torch import nn
from torch.nn import functional

from leanly.graph import capture
from leanly.prune import Channels
from tests.prune.surgery import kept_state, operate, scrambled


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * width, width))

    def forward(self, x):
        rows, tokens, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(rows, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        attended = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(rows, tokens, -1)
        x = x + self.out(attended)
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 10, width))
        self.blocks = nn.Sequential(Block(width, heads), Block(width, heads))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 7)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


def test_heads_and_feed_forward(tmp_path, elsewhere):
    _, half = operate(ViT(), torch.randn(2, 3, 12, 12), tmp_path, elsewhere)
    joint, output = half.kept["blocks.0.qkv.weight"][0], half.kept["blocks.0.out.weight"][1]
    assert torch.equal(joint.reshape(3, 16) - 32 * torch.arange(3)[:, None], output.expand(3, 16))
    assert len(half.kept["blocks.1.mlp.0.weight"][0]) == 32


def test_the_residual_width_as_in_a_smaller_vit():
    x = torch.randn(3, 3, 12, 12)
    graph = capture(scrambled(ViT()), example=x[:2])
    half = Channels(0.5)(graph)
    reference = ViT(16, 2).eval()
    reference.load_state_dict(kept_state(graph, half))
    for rows in (1, 3):
        with torch.no_grad():
            torch.testing.assert_close(half(x[:rows]), reference(x[:rows]), rtol=1e-4, atol=1e-5)
    assert half.kept["position"][2].tolist() == half.kept["token"][2].tolist()
