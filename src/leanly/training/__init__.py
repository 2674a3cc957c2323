"""Trains graphs: the one loop for labels, teachers and quantizers, its settings, checkpoints and batch norm anew.

What is minimized belongs to the room that wants it: softened logits in `distill`, rounding in `quantize`.
"""

from leanly.training.batch_norm import BatchNorm
from leanly.training.loop import fit
from leanly.training.progress import Progress
from leanly.training.settings import Settings
from leanly.training.supervised import train

__all__ = ["BatchNorm", "Progress", "Settings", "fit", "train"]
