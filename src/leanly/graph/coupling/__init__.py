"""Which dimensions of a graph's tensors move together, and the graph without some of them.

Choosing what to remove belongs in `prune`; the rules for operators are in `rules`, one file a kind.
"""

from leanly.graph.coupling.coupling import Axis, Coupling, Frozen, Group, couple
from leanly.graph.coupling.cutting import remove
from leanly.graph.coupling.sizes import Unfit

__all__ = ["Axis", "Coupling", "Frozen", "Group", "Unfit", "couple", "remove"]
