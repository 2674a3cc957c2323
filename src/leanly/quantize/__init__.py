"""Turns float graphs into graphs of quantizers: arithmetic, observers, placement, and the passes that use them.

Integer files belong in `lowering`; the quantizer operator itself, which other rooms see too, in `graph`.
"""

from leanly.quantize.affine import Affine
from leanly.quantize.bias_correction import CorrectBias
from leanly.quantize.binary import Binary
from leanly.quantize.clustering import Cluster
from leanly.quantize.equalization import Equalize
from leanly.quantize.gptq import GPTQ
from leanly.quantize.learned_steps import LearnSteps
from leanly.quantize.mixed import Mixed
from leanly.quantize.reconstruction import Reconstruct
from leanly.quantize.smoothing import Smooth
from leanly.quantize.static import Static
from leanly.quantize.weights_only import WeightsOnly

__all__ = [
    "GPTQ",
    "Affine",
    "Binary",
    "Cluster",
    "CorrectBias",
    "Equalize",
    "LearnSteps",
    "Mixed",
    "Reconstruct",
    "Smooth",
    "Static",
    "WeightsOnly",
]
