"""What takes long at first, done once before processes are forked: an import, a capture, an export. No thread."""

import tempfile
from pathlib import Path

import torch

import leanly
import leanly.measurement
import leanly.training
from leanly.lowering.onnx import export

with tempfile.TemporaryDirectory() as folder:
    export(leanly.capture(torch.nn.Linear(2, 2).eval(), example=torch.ones(2, 2)), Path(folder) / "model.onnx")
