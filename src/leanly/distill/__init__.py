"""Teaches a smaller network what a larger one knows: the pass, who teaches, and what is compared.

The loop that trains belongs to `training`; making the student smaller to `prune`.
"""

from leanly.distill.distilling import Distill

__all__ = ["Distill"]
