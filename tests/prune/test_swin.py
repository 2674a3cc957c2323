import torch
from transformers import SwinConfig, SwinForImageClassification

from tests.prune.surgery import operate


def test_windows(tmp_path, elsewhere):
    config = SwinConfig(
        image_size=16, patch_size=2, embed_dim=16, depths=[1, 1], num_heads=[2, 4], window_size=4, mlp_ratio=2.0
    )
    _, half = operate(
        SwinForImageClassification(config),
        {"pixel_values": torch.randn(2, 3, 16, 16)},
        tmp_path,
        elsewhere,
        lowered=True,
    )
    for stage, heads in enumerate((2, 4)):
        layer = f"swin.encoder.layers.{stage}.blocks.0"
        table = half.kept[f"{layer}.attention.relative_position_bias.relative_position_bias_table"]
        assert table[0] is None and len(table[1]) == heads // 2, "a head's biases go with it"
        assert len(half.kept[f"{layer}.mlp.fc1.weight"][0]) == 16 * (stage + 1)
