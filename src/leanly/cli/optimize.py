"""`leanly optimize FILE.py:TASK`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from leanly.cli.ending import end
from leanly.cli.options import TASK_HELP, BatchSizes, Runtimes, Threads, read_target


def optimize(
    task: Annotated[str, typer.Argument(help=TASK_HELP, show_default=False, metavar="FILE.py:TASK")],
    max_drop: Annotated[
        str,
        typer.Option(
            help="Largest loss in the metric, in its own units: 0.01 or 1%; by default 1%.", show_default=False
        ),
    ] = "",
    confidence: Annotated[
        str, typer.Option(help="Level of every test and interval; by default 0.95.", show_default=False)
    ] = "",
    speedup: Annotated[str, typer.Option(help="Wanted speed-up over the fastest float artifact, such as 2x.")] = "",
    bytes: Annotated[str, typer.Option(help="Largest artifact, such as 2MB.")] = "",
    latency: Annotated[str, typer.Option(help="Largest median latency of a call, such as 5ms.")] = "",
    time: Annotated[
        str, typer.Option(help="How long it may take: 90s, 2h30min; by default 10min.", show_default=False)
    ] = "",
    threads: Threads = None,
    batch_sizes: BatchSizes = "",
    runtimes: Runtimes = "",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; by default runs/FILE.", show_default=False)
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the run that lies in the folder; what is not given is as it was."),
    ] = False,
    smaller: Annotated[
        bool,
        typer.Option(help="Also try smaller networks, taught by the model, where the task has training rows."),
    ] = True,
    seed: Annotated[int, typer.Option(help="Seed of everything drawn at random.")] = 0,
    save: Annotated[
        Path | None, typer.Option(help="Where the bundle goes; by default OUT/model.leanly.", show_default=False)
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(help="Private key that signs the bundle (leanly.bundle.new_key makes one).", show_default=False),
    ] = None,
) -> None:
    """Find the fastest artifact of a model that stays inside the budget on this machine, and prove it.

    Writes OUT/report.html and the bundle. Exit code 0: a bundle inside the whole budget; 1: nothing met it, and the
    bundle holds the fastest float artifact.
    """
    from leanly.budget import Budget
    from leanly.files import check_place

    folder = out or Path("runs") / Path(task.rpartition(":")[0]).stem
    was = _settings_of(folder) if resume else {}
    # whatever was typed wrongly is said before torch is imported and the task is built
    budget = Budget(
        max_drop=max_drop or was.get("max_drop", "1%"),
        confidence=confidence or was.get("confidence", "0.95"),
        speedup=speedup or was.get("speedup"),
        bytes=bytes or was.get("bytes"),
        latency=latency or was.get("latency"),
        time=time or was.get("time", "10min"),
    )
    target = read_target(
        was.get("threads") if threads is None else threads,
        batch_sizes or ",".join(map(str, was.get("batch_sizes", (1,)))),
        runtimes or ",".join(was.get("runtimes") or ()),
    )
    target.allowed()
    if key is not None:
        from leanly.bundle.signing import read_private

        read_private(key)
    bundle = save or folder / "model.leanly"
    for place in (folder, bundle):
        check_place(place)

    from leanly.cli.finding import find_task

    found = find_task(task)

    from leanly.pipeline import optimize as search

    result = search(found, budget, target, out=folder, resume=resume, seed=seed, smaller=smaller)
    end(result, folder, bundle, key)


def _settings_of(folder: Path) -> dict[str, Any]:
    """Return the budget and the target of the run that lies in a folder."""
    from leanly.errors import RunError
    from leanly.search.folder import RunFolder

    run = RunFolder(folder)
    if not run.has_run():
        raise RunError("no run lies there", where=str(folder), remedy="name its folder by --out, or leave --resume out")
    about = run.read()
    return {**about["budget"], **about["target"]}
