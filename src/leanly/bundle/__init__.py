"""The folder that ships: saving, verifying, signing and loading it.

Making artifacts belongs in `lowering`, opening one in `runtimes`.
"""

from leanly.bundle.loading import BundlePredictor, load
from leanly.bundle.saving import save
from leanly.bundle.signing import new_key
from leanly.bundle.verifying import Contents, verify

__all__ = ["BundlePredictor", "Contents", "load", "new_key", "save", "verify"]
