"""Rules for operators that compute: which dimensions of what they read and give are cut together.

A rule is a function `(node, wiring) -> dimensions of every result`, or None where it does not know. Operators that only
rearrange need none: see `moving`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from leanly.graph.coupling.rules import elementwise, lookup, normalization, products, recurrent, reductions, spatial
from leanly.graph.coupling.variables import Dims
from leanly.graph.coupling.wiring import Wiring

Rule = Callable[[fx.Node, Wiring], list[Dims] | None]

RULES: dict[str, Rule] = {
    **elementwise.RULES,
    **lookup.RULES,
    **normalization.RULES,
    **products.RULES,
    **recurrent.RULES,
    **reductions.RULES,
    **spatial.RULES,
}
"""By the operator's name without overload."""
