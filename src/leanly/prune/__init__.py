"""Takes parts out of a graph: the passes that do it and the criteria that say which parts matter least.

What may be taken out together is found in `graph.coupling`; teaching the smaller network belongs in `distill`.
"""

from leanly.prune.channels import Channels
from leanly.prune.importance import gradient, magnitude

__all__ = ["Channels", "gradient", "magnitude"]
