"""`leanly run BUNDLE INPUT.npy`"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leanly.cli.options import PublicKey, Threads
from leanly.errors import DataError, SettingError

if TYPE_CHECKING:
    import numpy as np

    from leanly.artifact import Artifact


def run(
    bundle: Annotated[Path, typer.Argument(help="A bundle.", show_default=False, metavar="BUNDLE")],
    inputs: Annotated[
        Path,
        typer.Argument(
            help="An array (.npy), or one for each input by its name (.npz).",
            show_default=False,
            metavar="INPUT.npy|npz",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the outputs: .npy for one, .npz for several; else they are printed.", show_default=False
        ),
    ] = None,
    threads: Threads = None,
    public_key: PublicKey = None,
) -> None:
    """Verify a bundle, open it and run it once on the rows of a file."""
    from leanly.bundle import load
    from leanly.structure import build

    if out is not None and out.suffix not in (".npy", ".npz"):
        raise SettingError(
            f"outputs can't be written as {out.suffix!r}", where=str(out), remedy="name a .npy or .npz file"
        )
    predictor = load(bundle, public_key=public_key, threads=threads)
    arrays = _read(inputs, predictor.artifact)
    args, kwargs = build(predictor.artifact.arguments, arrays)
    # through the call, not `run`: it is the one that checks shapes and types
    outputs = _by_name(predictor(*args, **kwargs), predictor.artifact)
    if out is None:
        _print(outputs)
    else:
        _write(out, outputs)


def _read(path: Path, artifact: Artifact) -> list[np.ndarray]:
    import numpy as np

    names = [spec.name for spec in artifact.inputs]
    try:
        content: Any = np.load(path, allow_pickle=False)
        found = (
            {names[0]: content} if isinstance(content, np.ndarray) else {name: content[name] for name in content.files}
        )
    except FileNotFoundError as error:
        raise DataError("there is no such file", where=str(path), remedy="check the path") from error
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise DataError(
            f"the file is no array of numbers ({error})",
            where=str(path),
            remedy="write it with numpy.save or numpy.savez",
        ) from error
    if set(found) != set(names):
        raise DataError(
            f"the file has {', '.join(found)}, the model takes {', '.join(names)}",
            where=str(path),
            remedy=f"write numpy.savez(path, {', '.join(f'{name}=...' for name in names)})",
        )
    return [found[name] for name in names]


def _by_name(outputs: Any, artifact: Artifact) -> dict[str, np.ndarray]:
    from leanly.structure import flatten

    leaves = flatten(outputs)[1]
    return {spec.name: leaf for spec, leaf in zip(artifact.outputs, leaves, strict=True)}


def _print(outputs: dict[str, np.ndarray]) -> None:
    import numpy as np

    for name, array in outputs.items():
        print(f"{name}: {array.dtype} {'x'.join(map(str, array.shape)) or 'scalar'}")
        print(np.array2string(array, precision=6, threshold=200, max_line_width=100))


def _write(path: Path, outputs: dict[str, np.ndarray]) -> None:
    import numpy as np

    from leanly.files import replacing

    if path.suffix == ".npy" and len(outputs) > 1:
        raise SettingError(
            f"the model has {len(outputs)} outputs", where=str(path), remedy="name a .npz file, which holds several"
        )
    with replacing(path) as temporary, open(temporary, "wb") as file:
        if path.suffix == ".npy":
            np.save(file, next(iter(outputs.values())), allow_pickle=False)
        else:
            np.savez(file, **outputs)  # type: ignore[arg-type]
    print(f"{', '.join(outputs)}: {path}")
