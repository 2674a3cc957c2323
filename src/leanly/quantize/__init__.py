"""Turns float graphs into graphs of quantizers: arithmetic, observers, placement, and the passes that use them.

Integer files belong in `lowering`; the quantizer operator itself, which other rooms see too, in `graph`.
"""

from leanly.quantize.affine import Affine
from leanly.quantize.smoothing import Smooth
from leanly.quantize.static import Static

__all__ = ["Affine", "Smooth", "Static"]
