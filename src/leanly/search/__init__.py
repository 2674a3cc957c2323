"""Looks for the best candidate inside a budget: driver, journal, forecast, Pareto front, finale and outcome.

What to try belongs in `families`, how to measure and judge in `measurement`; nothing here knows what a network is.
"""

from leanly.families.candidate import Candidate
from leanly.search.driver import Search
from leanly.search.finale import finish
from leanly.search.outcome import Choice, Outcome
from leanly.search.trial import Trial

__all__ = ["Candidate", "Choice", "Outcome", "Search", "Trial", "finish"]
