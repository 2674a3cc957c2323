"""Opens an artifact in the runtime it was made for: one file a runtime, one Predictor over all of them.

Making artifacts belongs in `lowering`, timing them in `measurement`.
"""

from leanly.runtimes.opening import open_artifact, read_kernels
from leanly.runtimes.predictor import RuntimePredictor

__all__ = ["RuntimePredictor", "open_artifact", "read_kernels"]
