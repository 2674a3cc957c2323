"""Reports: self-contained HTML pages, of a run's outcome and of a cut in its four steps; plots are inline SVG.

What a run ended in is computed in `search`; nothing is measured or decided here.
"""

from leanly.report.page import page
from leanly.report.pruning import pruning

__all__ = ["page", "pruning"]
