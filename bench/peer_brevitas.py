"""brevitas's quantization, run as a process in the peer's own environment: what it gives for test rows.

Its own recipe for image classifiers: batch norm merged, layers equalized, ranges calibrated; then roundings learned
(AdaRound, layer by layer) and biases corrected, or all of it trained with the float network as teacher.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import brevitas  # pyright: ignore[reportMissingImports]
import numpy as np
import torch
from brevitas.graph.quantize import (  # pyright: ignore[reportMissingImports]
    layerwise_quantize,
    preprocess_for_quantize,
)
from brevitas_examples.common.learned_round.learned_round_args import (  # pyright: ignore[reportMissingImports]
    HandlerSpec,
    LearnedRoundArgs,
    LossArgs,
    OptimizerArgs,
    TrainerConfig,
    TrainingArgs,
)
from brevitas_examples.common.learned_round.learned_round_trainer import (  # pyright: ignore[reportMissingImports]
    LearnedRoundTrainer,
    get_blocks,
)
from brevitas_examples.imagenet_classification.ptq import (  # pyright: ignore[reportMissingImports]
    learned_round_utils as rounds,
)
from brevitas_examples.imagenet_classification.ptq import (  # pyright: ignore[reportMissingImports]
    ptq_common as ptq,
)
from torch import Tensor, nn

BATCH = 32
TRAINED, RATE, DECAY, WARM_UP = 128, 1e-3, 1e-2, 0.05
TEMPERATURE, ALPHA = 4.0, 0.9
"""What leanly trains with; `bench.trained_bits` says the same."""


def main() -> None:
    """Quantize one network with one set of settings and write the outputs on the test rows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True, help="the folder that holds bench/")
    parser.add_argument("--weights-file", type=Path, required=True)
    parser.add_argument(
        "--blocks", type=int, required=True, help="of a stage of the CIFAR ResNet; 0: EfficientNet-Lite0"
    )
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weight-bits", type=int, required=True)
    parser.add_argument("--activation-bits", type=int, required=True)
    parser.add_argument(
        "--end-bits", type=int, required=True, help="of weights of the first and last layer; what they read: or more"
    )
    parser.add_argument("--iterations", type=int, required=True, help="of learned rounding, a layer; 0 leaves it out")
    parser.add_argument("--ranges", choices=("stats", "mse"), required=True)
    parser.add_argument("--epochs", type=int, default=0, help="of training; then no rounding is learned")
    parser.add_argument("--train", type=Path, help="images, for training")
    parser.add_argument("--labels", type=Path, help="of the images")
    parser.add_argument("--validation", type=Path, help="images, of which the best epoch is chosen")
    parser.add_argument("--validation-labels", type=Path)
    parser.add_argument("--device", default="cpu", help="of the training")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.monotonic()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    np.random.seed(options.seed)  # noqa: NPY002 - the generator that brevitas draws from
    model = _network(options.root, options.blocks, options.weights_file)
    calibration = torch.from_numpy(np.load(options.calibration))
    loader = [(piece, torch.zeros(len(piece))) for piece in calibration.split(BATCH)]
    quantized = _quantized(model, loader, options)
    ptq.calibrate(loader, quantized)
    if options.epochs:
        _train(quantized, _network(options.root, options.blocks, options.weights_file), options)
    else:
        if options.iterations:
            _learn_rounding(quantized, loader, options.iterations)
        ptq.apply_bias_correction(loader, quantized)
    test = torch.from_numpy(np.load(options.test))
    with torch.no_grad():
        outputs = torch.cat([_plain(quantized(piece)) for piece in test.split(100)])
    np.save(options.out, outputs.numpy())
    print(json.dumps({"brevitas": brevitas.__version__, "seconds": time.monotonic() - started}))


def _network(root: Path, blocks: int, weights: Path) -> nn.Module:
    sys.path.insert(0, str(root))
    from safetensors.torch import load_file

    from bench.models.cifar_resnet import CifarResNet
    from bench.models.plain_lite import PlainLite

    model = CifarResNet(blocks) if blocks else PlainLite()
    model.load_state_dict(load_file(weights))
    return model.eval()


def _quantized(model: nn.Module, loader: list[tuple[Tensor, Tensor]], options: argparse.Namespace) -> nn.Module:
    # where activations end at 6, what its default makes of them is another network
    unlimited = not any(isinstance(module, nn.ReLU6) for module in model.modules())
    model = preprocess_for_quantize(model, relu6_to_relu=unlimited, equalize_iters=20, merge_bn=True)
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    ends = [layers[0], layers[-1]]
    # layers that are quantized are not taken again: the second call finds the ends
    model = layerwise_quantize(model, _layer_map(options.weight_bits, options.activation_bits, options.ranges), ends)
    wide = max(options.end_bits, options.activation_bits)
    model = layerwise_quantize(model, _layer_map(options.end_bits, wide, options.ranges)).eval()
    with torch.no_grad():
        model(loader[0][0])  # scales are made at the first call
    for name in layers:
        layer: Any = model.get_submodule(name)
        end = name in ends
        wanted = (options.end_bits, wide) if end else (options.weight_bits, options.activation_bits)
        found = round(float(layer.weight_quant.bit_width())), round(float(layer.input_quant.bit_width()))
        if found != wanted:
            raise SystemExit(f"{name} has {found} bits of weights and of what they read, not {wanted}")
    return model


def _layer_map(weight_bits: int, activation_bits: int, ranges: str) -> Any:
    return ptq.create_quant_maps(
        dtype=torch.float32,
        bias_bit_width=None,
        weight_bit_width=weight_bits,
        weight_param_method=ranges,
        weight_scale_type="float_scale",
        weight_quant_type="sym",
        weight_quant_granularity="per_channel",
        weight_narrow_range=True,
        weight_quant_format="int",
        act_quant_format="int",
        act_bit_width=activation_bits,
        act_scale_type="float_scale",
        act_scale_computation_type="static",
        act_param_method=ranges,
        act_quant_type="asym",
        act_quant_granularity="per_tensor",
        act_quant_percentile=99.999,
    )[1]


def _learn_rounding(model: nn.Module, loader: list[tuple[Tensor, Tensor]], iterations: int) -> None:
    optimizer = OptimizerArgs(target_params="learned_round", optimizer_cls="Adam", lr=1e-3, optimizer_kwargs={})
    losses = [LossArgs(cls="round_reg", kwargs=None), LossArgs(cls="mse", kwargs={"reduction": "none", "dim": 1})]
    training = TrainingArgs(
        optimizers_args=[optimizer],
        batch_size=BATCH,
        iters=iterations,
        losses_args=losses,
        use_best_model=False,
        use_amp=False,
    )
    handler = HandlerSpec(
        name="learned_round",
        config=LearnedRoundArgs(learned_round_param="hard_sigmoid", learned_round_kwargs=None),
    )
    LearnedRoundTrainer(config=TrainerConfig(training_args=training, training_handlers=[handler])).train(
        model=model,
        model_forward=rounds.vision_forward,
        block_forward=rounds.vision_block_forward,
        data_loader=loader,
        cache=rounds.CacheVision(),
        get_blocks_fn=lambda module: get_blocks(module, block_check_fn=rounds.is_layer),
        keep_gpu=True,
    )


def _train(model: nn.Module, teacher: nn.Module, options: argparse.Namespace) -> None:
    """Train as leanly does: the same batches' size, rates, augmentation, losses, and the best epoch on validation."""
    images, labels = np.load(options.train, mmap_mode="r"), torch.from_numpy(np.load(options.labels))
    validation = torch.from_numpy(np.load(options.validation)), torch.from_numpy(np.load(options.validation_labels))
    model, teacher = model.to(options.device), teacher.to(options.device)
    decayed = [
        p for name, p in model.named_parameters() if p.ndim >= 2 and "scaling" not in name and "zero" not in name
    ]
    others = [p for p in model.parameters() if not any(p is other for other in decayed)]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    steps, warm = options.epochs * (len(labels) // TRAINED), WARM_UP * options.epochs * (len(labels) // TRAINED)
    generator = torch.Generator().manual_seed(options.seed)
    best, kept, step = -1.0, model.state_dict(), 0
    held = options.out.with_suffix(".pt")
    begun = 0
    if held.exists():
        state = torch.load(held, weights_only=True, map_location=options.device)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"].cpu())
        best, kept, step, begun = state["best"], state["kept"], state["step"], state["epoch"]
    for epoch in range(begun, options.epochs):
        model.train()
        for rows in torch.randperm(len(labels), generator=generator)[: len(labels) // TRAINED * TRAINED].split(TRAINED):
            factor = (step + 1) / (warm + 1)
            if step >= warm:
                factor = 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))
            for group in optimizer.param_groups:
                group["lr"] = RATE * factor
            batch = _augmented(torch.from_numpy(images[rows.sort().values.numpy()]), generator).to(options.device)
            right = labels[rows.sort().values].to(options.device)
            with torch.no_grad():
                wanted = (teacher(batch) / TEMPERATURE).log_softmax(1)
            logits = _plain(model(batch))
            found = (logits / TEMPERATURE).log_softmax(1)
            taught = (wanted.exp() * (wanted - found)).sum(1).mean() * TEMPERATURE**2
            loss = ALPHA * taught + (1 - ALPHA) * nn.functional.cross_entropy(logits, right)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
        model.eval()
        with torch.no_grad():
            logits = torch.cat([_plain(model(piece.to(options.device))).cpu() for piece in validation[0].split(250)])
        metric = float((logits.argmax(1) == validation[1]).double().mean())
        print(f"brevitas: epoch {epoch + 1} of {options.epochs}, validation {metric:.4f}", file=sys.stderr, flush=True)
        if metric >= best:
            best, kept = metric, {name: tensor.clone() for name, tensor in model.state_dict().items()}
        now = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "generator": generator.get_state()}
        torch.save({**now, "best": best, "kept": kept, "step": step, "epoch": epoch + 1}, held)
    model.load_state_dict(kept)
    model.to("cpu").eval()


def _augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift by up to an eighth, and mirror half of them."""
    reach = images.shape[2] // 8
    padded = nn.functional.pad(images, (reach,) * 4)
    down, right = torch.randint(0, 2 * reach + 1, (2, len(images)), generator=generator)
    size = images.shape[2]
    moved = torch.stack([
        image[:, y : y + size, x : x + size] for image, y, x in zip(padded, down.tolist(), right.tolist(), strict=True)
    ])  # fmt: skip
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], moved.flip(3), moved)


def _plain(output: Any) -> Tensor:
    return getattr(output, "value", output)


if __name__ == "__main__":
    main()
