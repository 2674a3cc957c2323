"""The report: one self-contained HTML page of an outcome, its plots drawn as inline SVG.

What a run ended in is computed in `search`; nothing is measured or decided here.
"""

from leanly.report.page import page

__all__ = ["page"]
