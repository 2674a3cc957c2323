"""The captured model: turning a module into a `Graph`, running, training, saving and costing it.

What changes a graph on purpose (quantizing, pruning, distilling) and what runs it elsewhere (lowering) do not belong
here.
"""

from leanly.graph.capturing import capture
from leanly.graph.checking import check_graph, check_nodes
from leanly.graph.cost import Cost, NodeCost
from leanly.graph.graph import Graph

__all__ = ["Cost", "Graph", "NodeCost", "capture", "check_graph", "check_nodes"]
