"""Families of models: which recipes to try and how to make one; the search itself knows nothing of them.

Choosing among candidates that were measured belongs in `search`, the passes themselves in `quantize` and its kin. Each
family is imported from its own module, since it brings its compilers along.
"""

from leanly.families.candidate import Candidate

__all__ = ["Candidate"]
