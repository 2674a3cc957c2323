"""`leanly measure A [B]`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leanly.cli.options import TASK_HELP, BatchSizes, PublicKey, Threads, read_target
from leanly.cli.tables import table

if TYPE_CHECKING:
    from leanly.artifact import Artifact
    from leanly.measurement import Comparison, Measurement

WHAT = "A bundle, or a folder that leanly.lower made."


def measure(
    a: Annotated[Path, typer.Argument(help=WHAT, show_default=False, metavar="A")],
    b: Annotated[
        Path | None, typer.Argument(help=f"{WHAT} Timed in turns with A.", show_default=False, metavar="[B]")
    ] = None,
    task: Annotated[str, typer.Option(help=f"Score it too. {TASK_HELP}")] = "",
    split: Annotated[str, typer.Option(help="Which split to score.")] = "validation",
    threads: Threads = None,
    batch_sizes: BatchSizes = "1",
    time: Annotated[str, typer.Option(help="Time spent on timing, such as 4s.")] = "4s",
    public_key: PublicKey = None,
) -> None:
    """Measure an artifact on this machine: latency with its interval, memory, bytes; with B the ratio of the two."""
    from leanly.budget import read_time
    from leanly.cli.finding import find_artifacts, find_task
    from leanly.target import Target

    target = read_target(threads, batch_sizes)
    seconds = read_time(time)
    first = find_artifacts(a, target.batch_sizes, public_key)
    second = find_artifacts(b, target.batch_sizes, public_key) if b is not None else None
    job = find_task(task) if task else None

    import leanly.measurement as room

    # a bundle may hold another artifact for each batch size: those with the same artifacts are measured together
    groups: dict[tuple[Path, ...], list[int]] = {}
    for size in target.batch_sizes:
        members = (first[size],) if second is None else (first[size], second[size])
        groups.setdefault(tuple(member.folder for member in members), []).append(size)
    for sizes in groups.values():
        part = Target(target.device, threads=target.threads, batch_sizes=sizes)
        share = seconds * len(sizes) / len(target.batch_sizes)
        if second is None:
            print(_measured([("A", room.measure(first[sizes[0]], part, job, split=split, seconds=share))], job))
            continue
        found = room.compare(first[sizes[0]], second[sizes[0]], part, job, split=split, seconds=share)
        print(_measured([("A", found.a), ("B", found.b)], job))
        print(_compared(found, job))
        for sentence in _storage_only(first[sizes[0]], second[sizes[0]], found):
            print(sentence)


def _measured(measured: list[tuple[str, Measurement]], job: object) -> str:
    from leanly.search import words

    rows = []
    for name, one in measured:
        for size, latency in one.latency.items():
            p90, p99 = (latency.percentile(percent) for percent in (90, 99))
            rows.append([
                name,
                f"{one.precision}, {one.runtime}, {one.threads} threads",
                str(size),
                words.latency(latency.interval()),
                "too few calls" if p90 is None else words.seconds(p90),
                "too few calls" if p99 is None else words.seconds(p99),
                words.size(one.artifact_bytes),
                "unknown" if one.peak_memory_bytes is None else words.size(one.peak_memory_bytes),
                words.seconds(one.open_seconds),
                "-" if one.metric is None else words.metric(one.metric, _metric_name(job)),
            ])  # fmt: skip
    header = ["", "what", "batch", "median latency (95 %)", "p90", "p99", "artifact", "peak memory", "open"]
    title = f"{_metric_name(job)}, {measured[0][1].split}" if measured[0][1].metric is not None else "metric"
    return table([*header, title], rows, right=(2,))


def _compared(found: Comparison, job: object) -> str:
    from leanly.search import words

    lines = []
    for size, ratio in found.ratio.items():
        lines.append(f"batch {size}: A takes {words.times(ratio)} the time of B")
    if len(found.ratio) > 1:
        lines.append(f"geometric mean: {words.times(found.geometric_mean)}")
    if found.drop is not None:
        interval = words.drop_interval(found.drop.drop, _metric_name(job))
        lines.append(f"{_metric_name(job)} of B minus A: {interval}, {found.drop.test}, n = {found.drop.n:,}")
    return "\n".join(lines)


def _storage_only(a: Artifact, b: Artifact, found: Comparison) -> list[str]:
    from leanly.search import words

    other_way = {size: ratio.inverse() for size, ratio in found.ratio.items()}
    told = {"A": words.one_bit_no_faster(a, b, found.ratio), "B": words.one_bit_no_faster(b, a, other_way)}
    return [f"{name}: {sentence}" for name, sentence in told.items() if sentence]


def _metric_name(job: object) -> str:
    return "" if job is None else job.metric.name  # type: ignore[attr-defined]
