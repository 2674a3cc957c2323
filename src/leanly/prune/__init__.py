"""Takes parts out of a graph: the passes that do it and the criteria that say which parts matter least.

What may be taken out together is found in `graph`; teaching the smaller network belongs in `distill`.
"""

from leanly.prune.channels import Channels
from leanly.prune.importance import expected_gradient, gradient, magnitude
from leanly.prune.layers import Layers
from leanly.prune.refitting import Refit
from leanly.prune.regression import SparseGPT
from leanly.prune.schedules import gradual, iterative
from leanly.prune.skipping import skipping
from leanly.prune.sparse import Sparse
from leanly.prune.values import activation_entropy, fisher, second_order
from leanly.prune.weights import (
    batch_norm_scale,
    geometric_median,
    lamp,
    magnitude_l1,
    random,
    weight_entropy,
)

__all__ = [
    "Channels",
    "Layers",
    "Refit",
    "Sparse",
    "SparseGPT",
    "activation_entropy",
    "batch_norm_scale",
    "expected_gradient",
    "fisher",
    "geometric_median",
    "gradient",
    "gradual",
    "iterative",
    "lamp",
    "magnitude",
    "magnitude_l1",
    "random",
    "second_order",
    "skipping",
    "weight_entropy",
]
