"""Takes parts out of a graph: the passes that do it and the criteria that say which parts matter least.

What may be taken out together is found in `graph`; teaching the smaller network belongs in `distill`.
"""

from leanly.prune.channels import Channels
from leanly.prune.importance import gradient, magnitude
from leanly.prune.layers import Layers
from leanly.prune.skipping import skipping

__all__ = ["Channels", "Layers", "gradient", "magnitude", "skipping"]
