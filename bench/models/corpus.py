"""Architectures of transformers in tiny random configurations, each with a head of seven classes behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

CLASSES, TOKENS, LENGTH = 7, 100, 12
LIVELY = 0.4
"""Deviation of weights where the usual 0.02 lets nothing of an image through convolutions and batch norms."""
WIDTH, INNER, HEADS, LAYERS = 64, 128, 4, 2
TEXT = {
    "vocab_size": TOKENS,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
GROUPED = {**TEXT, "num_key_value_heads": 2, "head_dim": WIDTH // HEADS}
IMAGE = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "image_size": 32,
    "patch_size": 8,
}
SOUND = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "conv_dim": (32, 32, 32),
    "conv_kernel": (10, 3, 3),
    "conv_stride": (5, 2, 2),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "num_feat_extract_layers": 3,
}


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Args:
        model: the name of its class in transformers.
        settings: of its configuration, in which it is tiny.
        example: rows -> what it is given, by the name of the argument.
        encoder: whether only the encoder of the class is taken.
    """

    model: str
    settings: Mapping[str, Any]
    example: Callable[[int], dict[str, Tensor]]
    encoder: bool = False
    fixed: Mapping[str, Any] = field(default_factory=dict)


class Classifier(nn.Module):
    """A body of transformers, the mean of what it gives over everything but channels, and a linear layer."""

    def __init__(self, body: nn.Module, fixed: Mapping[str, Any], images: bool) -> None:
        super().__init__()
        self.body, self._fixed, self._images = body, dict(fixed), images
        self.head: nn.Module = nn.Identity()

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return seven logits a row."""
        hidden = self.body(**inputs, **self._fixed)[0]
        if hidden.ndim == 4:
            hidden = hidden.flatten(2).transpose(1, 2) if self._images else hidden.flatten(1, 2)
        return self.head(hidden.mean(1))


def build(architecture: Architecture) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return a model with random weights, and what it is given for two rows."""
    import transformers

    torch.manual_seed(0)
    kind: Any = getattr(transformers, architecture.model)
    config = kind.config_class(**architecture.settings)
    config._attn_implementation = "sdpa" if getattr(kind, "_supports_sdpa", False) else "eager"
    body = kind(config)
    if architecture.encoder:
        body = body.get_encoder()
    example = architecture.example(2)
    model = Classifier(body.eval(), architecture.fixed, "pixel_values" in example)
    with torch.no_grad():
        width = model(**example).shape[1]
    model.head = nn.Linear(width, CLASSES)
    return model.eval(), example


def text(rows: int) -> dict[str, Tensor]:
    """Return ids and a mask, the last two of a row masked."""
    ids = torch.randint(5, TOKENS, (rows, LENGTH), generator=torch.Generator().manual_seed(rows))
    mask = torch.ones(rows, LENGTH, dtype=torch.long)
    mask[-1, -2:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def tokens(rows: int) -> dict[str, Tensor]:
    """Return ids alone."""
    return {"input_ids": text(rows)["input_ids"]}


def image(size: int = 32) -> Callable[[int], dict[str, Tensor]]:
    """Return what makes images of a size."""

    def pixels(rows: int) -> dict[str, Tensor]:
        return {"pixel_values": torch.randn(rows, 3, size, size, generator=torch.Generator().manual_seed(rows))}

    return pixels


def sound(rows: int) -> dict[str, Tensor]:
    """Return a tenth of a second of noise."""
    return {"input_values": torch.randn(rows, 1600, generator=torch.Generator().manual_seed(rows))}


def spectrum(name: str, *shape: int) -> Callable[[int], dict[str, Tensor]]:
    """Return what makes spectra of a shape."""

    def bands(rows: int) -> dict[str, Tensor]:
        return {name: torch.randn(rows, *shape, generator=torch.Generator().manual_seed(rows))}

    return bands


NO_CACHE = {"use_cache": False}


def _texts() -> list[Architecture]:
    plain = [
        "BertModel", "RobertaModel", "XLMRobertaModel", "CamembertModel", "ElectraModel", "MPNetModel", "ErnieModel",
        "RoFormerModel", "LayoutLMModel", "SplinterModel", "MegatronBertModel", "Data2VecTextModel",
    ]  # fmt: skip
    found = [Architecture(name, TEXT, text) for name in plain]
    grouped = [
        "LlamaModel", "MistralModel", "Qwen2Model", "Qwen3Model", "GemmaModel", "Gemma2Model", "GraniteModel",
        "OlmoModel", "CohereModel", "StableLmModel", "Phi3Model", "SmolLM3Model",
    ]  # fmt: skip
    found += [Architecture(name, GROUPED, text, fixed=NO_CACHE) for name in grouped]
    t5 = {
        "vocab_size": TOKENS, "d_model": WIDTH, "d_kv": WIDTH // HEADS, "d_ff": INNER, "num_layers": LAYERS,
        "num_heads": HEADS,
    }  # fmt: skip
    gpt = {"vocab_size": TOKENS, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 64}
    return [
        *found,
        Architecture(
            "DistilBertModel",
            {"vocab_size": TOKENS, "dim": WIDTH, "hidden_dim": INNER, "n_layers": LAYERS, "n_heads": HEADS},
            text,
        ),
        Architecture("AlbertModel", {**TEXT, "embedding_size": 32}, text),
        Architecture("DebertaModel", {**TEXT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}, text),
        Architecture("DebertaV2Model", {**TEXT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}, text),
        Architecture("SqueezeBertModel", {**TEXT, "embedding_size": WIDTH}, text),
        Architecture("MobileBertModel", {**TEXT, "embedding_size": 32, "intra_bottleneck_size": 32}, text),
        Architecture("ConvBertModel", {**TEXT, "embedding_size": WIDTH, "head_ratio": 2, "conv_kernel_size": 3}, text),
        Architecture("FNetModel", {k: v for k, v in TEXT.items() if k != "num_attention_heads"}, tokens),
        Architecture("NystromformerModel", {**TEXT, "segment_means_seq_len": 12, "num_landmarks": 12}, text),
        Architecture("ModernBertModel", {**TEXT, "global_attn_every_n_layers": 2}, text),
        Architecture("T5EncoderModel", t5, text),
        Architecture("MT5EncoderModel", t5, text),
        Architecture("GPT2Model", gpt, text, fixed=NO_CACHE),
        Architecture(
            "GPTNeoModel",
            {**TEXT, "num_layers": LAYERS, "num_heads": HEADS, "attention_types": [[["global"], 2]]},
            text,
            fixed=NO_CACHE,
        ),
        Architecture("GPTNeoXModel", TEXT, text, fixed=NO_CACHE),
        Architecture("GPTJModel", {**gpt, "rotary_dim": 8}, text, fixed=NO_CACHE),
        Architecture("OPTModel", {**TEXT, "ffn_dim": INNER, "word_embed_proj_dim": WIDTH}, text, fixed=NO_CACHE),
        Architecture(
            "BloomModel",
            {"vocab_size": TOKENS, "hidden_size": WIDTH, "n_layer": LAYERS, "n_head": HEADS},
            text,
            fixed=NO_CACHE,
        ),
        Architecture("PhiModel", TEXT, text, fixed=NO_CACHE),
        Architecture("FalconModel", TEXT, text, fixed=NO_CACHE),
    ]


def _images() -> list[Architecture]:
    plain = [
        "ViTModel", "DeiTModel", "BeitModel", "Dinov2Model", "ViTMSNModel", "CLIPVisionModel", "SiglipVisionModel",
        "IJepaModel", "Data2VecVisionModel",
    ]  # fmt: skip
    four = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}
    swin = {"image_size": 32, "patch_size": 2, "embed_dim": 32, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4}
    stages = {"num_attention_heads": [1, 2, 4, 8], "sr_ratios": [8, 4, 2, 1], "mlp_ratios": [4, 4, 4, 4]}
    return [
        *(Architecture(name, IMAGE, image()) for name in plain),
        Architecture("SwinModel", swin, image()),
        Architecture("Swinv2Model", swin, image()),
        Architecture("ConvNextModel", four, image(64)),
        Architecture("ConvNextV2Model", four, image(64)),
        Architecture("ResNetModel", {**four, "embedding_size": 16}, image(64)),
        Architecture("RegNetModel", {**four, "embedding_size": 16, "groups_width": 8}, image(64)),
        Architecture("BitModel", {**four, "embedding_size": 16, "num_groups": 4}, image(64)),
        Architecture("MobileNetV1Model", {"image_size": 32, "depth_multiplier": 0.25}, image(64)),
        Architecture("MobileNetV2Model", {"image_size": 32, "depth_multiplier": 0.35}, image(64)),
        Architecture(
            "MobileViTModel",
            {
                "image_size": 64,
                "initializer_range": LIVELY,
                "hidden_sizes": [32, 40, 48],
                "neck_hidden_sizes": [8, 16, 24, 32, 40, 48, 64],
                "num_attention_heads": 4,
            },
            image(64),
        ),
        Architecture(
            "MobileViTV2Model", {"image_size": 64, "initializer_range": LIVELY, "width_multiplier": 0.25}, image(64)
        ),
        Architecture("SegformerModel", {**four, **stages, "num_encoder_blocks": 4}, image(64)),
        Architecture("PoolFormerModel", {**four, "num_encoder_blocks": 4}, image(64)),
        Architecture(
            "PvtModel", {**four, **stages, "image_size": 64, "sequence_reduction_ratios": [8, 4, 2, 1]}, image(64)
        ),
        Architecture(
            "EfficientNetModel",
            {"image_size": 64, "width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320},
            image(64),
        ),
        Architecture(
            "FocalNetModel",
            {
                "image_size": 32,
                "patch_size": 2,
                "embed_dim": 16,
                "depths": [1, 1],
                "focal_levels": [2, 2],
                "focal_windows": [3, 3],
            },
            image(),
        ),
        Architecture(
            "HieraModel",
            {
                "image_size": [32, 32],
                "embed_dim": 16,
                "depths": [1, 1],
                "num_heads": [1, 2],
                "num_query_pool": 1,
                "masked_unit_size": [2, 2],
                "patch_stride": [4, 4],
                "patch_size": [7, 7],
            },
            image(),
        ),
        Architecture("CvtModel", {"embed_dim": [16, 32, 64], "num_heads": [1, 2, 4], "depth": [1, 2, 3]}, image(64)),
        Architecture("TextNetModel", {}, image(64)),
    ]


def _sounds() -> list[Architecture]:
    plain = ["Wav2Vec2Model", "HubertModel", "WavLMModel", "UniSpeechModel", "UniSpeechSatModel", "Data2VecAudioModel"]
    ast = {**IMAGE, "patch_size": 8, "max_length": 64, "num_mel_bins": 32, "time_stride": 8, "frequency_stride": 8}
    whisper = {
        "d_model": WIDTH, "encoder_layers": LAYERS, "encoder_attention_heads": HEADS, "encoder_ffn_dim": INNER,
        "decoder_layers": 1, "decoder_attention_heads": HEADS, "decoder_ffn_dim": INNER, "num_mel_bins": 16,
        "max_source_positions": 32, "vocab_size": TOKENS, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        "decoder_start_token_id": 1,
    }  # fmt: skip
    return [
        *(Architecture(name, SOUND, sound) for name in plain),
        Architecture("SEWModel", {**SOUND, "squeeze_factor": 1}, sound),
        Architecture("ASTModel", ast, spectrum("input_values", 64, 32)),
        Architecture("WhisperModel", whisper, spectrum("input_features", 16, 64), encoder=True),
    ]


ARCHITECTURES = {architecture.model: architecture for architecture in (*_texts(), *_images(), *_sounds())}
