"""Measures artifacts on the target, each in a process of its own, and judges them by tests with intervals.

Latency, accuracy, memory, paired statistics and verdicts belong here; opening an artifact belongs in `runtimes`,
choosing what to measure in `search`.
"""

from leanly.measurement.records import Comparison, Interval, Latency, Measurement, PairedDrop, Verdict

__all__ = ["Comparison", "Interval", "Latency", "Measurement", "PairedDrop", "Verdict"]
