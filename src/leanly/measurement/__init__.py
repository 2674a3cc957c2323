"""Measures artifacts on the target, each in a process of its own, and judges them by tests with intervals.

Latency, accuracy, memory, paired statistics and verdicts belong here; opening an artifact belongs in `runtimes`,
choosing what to measure in `search`.
"""

from leanly.measurement.judge import all_of, can_certify, certify_walk, judge, within
from leanly.measurement.latency import time_in_turns
from leanly.measurement.measuring import compare, measure, measure_in_turns, predict
from leanly.measurement.profiling import profile
from leanly.measurement.records import Comparison, Interval, Latency, Measurement, PairedDrop, Verdict
from leanly.measurement.statistics import (
    paired_drop,
    paired_drop_bootstrap,
    paired_drop_exact,
    ratio_interval,
    ratio_intervals,
    resolvable_drop,
    rows_needed,
)
from leanly.measurement.workers import Worker

__all__ = [
    "Comparison",
    "Interval",
    "Latency",
    "Measurement",
    "PairedDrop",
    "Verdict",
    "Worker",
    "all_of",
    "can_certify",
    "certify_walk",
    "compare",
    "judge",
    "measure",
    "measure_in_turns",
    "paired_drop",
    "paired_drop_bootstrap",
    "paired_drop_exact",
    "predict",
    "profile",
    "ratio_interval",
    "ratio_intervals",
    "resolvable_drop",
    "rows_needed",
    "time_in_turns",
    "within",
]
