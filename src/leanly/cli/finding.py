"""Finding what was named on the command line: a task in a file, the artifacts of a bundle."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from leanly.errors import BundleError, LeanlyError, SettingError
from leanly.suggest import suggestion

Made = TypeVar("Made")

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from leanly.artifact import Artifact
    from leanly.bundle import Contents
    from leanly.recipe import Recipe
    from leanly.task import Task


def find_task(named: str) -> Task:
    """Import FILE.py and return its task.

    Args:
        named: "FILE.py:NAME"; NAME is a `Task` or a function without arguments that returns one.

    Raises:
        SettingError: no such file or name, it fails, or it is something else.
    """
    file, _, name = named.rpartition(":")
    path = Path(file)
    if not file or not name.isidentifier():
        raise SettingError(
            f"{named!r} does not name a task", where="command line", remedy="write FILE.py:NAME, such as digits.py:task"
        )
    if not path.is_file():
        raise SettingError("there is no such file", where=file, remedy="check the path before the colon")

    from leanly.task import Task

    content = vars(_import(path))
    if name not in content:
        candidates = [key for key, value in content.items() if isinstance(value, Task) or inspect.isfunction(value)]
        raise SettingError(f"there is no {name!r} in the file", where=file, remedy=suggestion(name, candidates))
    found: Any = content[name]
    if callable(found) and not isinstance(found, Task):
        found = _running_the_users_code(path, found)
    if not isinstance(found, Task):
        raise SettingError(
            f"{name} is a {type(found).__name__}, not a leanly.Task",
            where=named,
            remedy="name a leanly.Task, or a function without arguments that returns one",
        )
    return found


def find_artifacts(path: Path, sizes: Sequence[int], public_key: Path | None = None) -> dict[int, Artifact]:
    """Return the artifact that answers for each batch size: of a bundle (verified) or of a folder that `lower` made.

    Raises:
        SettingError: it is neither.
        BundleError: the bundle is not as it was made.
    """
    from leanly.artifact import Artifact
    from leanly.bundle.payload import opened

    if (path / "artifact.json").is_file():
        artifact = Artifact.open(path)
        return dict.fromkeys(sizes, artifact)
    contents = find_bundle(path, public_key)
    by_size = {
        int(size): opened(Artifact.open(contents.path / place))
        for size, place in contents.document["artifacts"].items()
    }
    return {size: nearest(by_size, size) for size in sizes}


def nearest(by_size: Mapping[int, Made], size: int) -> Made:
    """Return what was made for the nearest batch size: of two as near, for the larger."""
    return by_size[min(by_size, key=lambda made: (abs(made - size), -made))]


def find_recipes(path: Path, public_key: Path | None = None) -> dict[int, Recipe]:
    """Return a bundle's recipes by batch size, first the one whose network it holds; a folder of `lower` has none.

    Raises:
        SettingError: it is no bundle, or this leanly lacks a pass of a recipe.
        BundleError: the bundle is not as it was made.
    """
    from leanly.bundle.manifest import COPY_AGAIN
    from leanly.recipe import Recipe

    if (path / "artifact.json").is_file():
        return {}
    document = find_bundle(path, public_key).document
    try:
        found = {}
        for choice in document.get("choices", ()):
            shipped = choice["float_best"] if choice["best"] is None else choice["best"]
            found[int(choice["batch_size"])] = Recipe.from_json(document["trials"][str(shipped)]["recipe"])
        return found
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"the description is damaged ({error!r})", where=str(path / "bundle.json"), remedy=COPY_AGAIN
        ) from error


def find_bundle(path: Path, public_key: Path | None = None) -> Contents:
    """Verify a bundle.

    Raises:
        SettingError: the path is something else.
        BundleError: the bundle is not as it was made.
    """
    from leanly import bundle

    if not (path / "manifest.json").exists() and not (path / "bundle.json").exists():
        raise SettingError(
            "there is no bundle or artifact" if not path.exists() else "this is neither a bundle nor an artifact",
            where=str(path),
            remedy="name a folder that `leanly optimize` saved, such as runs/first/model.leanly",
        )
    return bundle.verify(path, public_key)


def _import(path: Path) -> Any:
    """Import a file as a script of its folder would be: what lies beside it can be imported."""
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(path.stem, path.resolve())
    if spec is None or spec.loader is None:
        raise SettingError("the file is not Python", where=str(path), remedy="name a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    _running_the_users_code(path, lambda: spec.loader.exec_module(module))  # type: ignore[union-attr]
    return module


def _running_the_users_code(path: Path, call: Any) -> Any:
    """Call; what goes wrong is told with the line of the user's file in which it did."""
    try:
        return call()
    except LeanlyError:
        raise
    except (Exception, SystemExit) as error:
        where = str(path)
        if isinstance(error, SyntaxError):
            where = f"{error.filename}:{error.lineno}: {(error.text or '').strip()}"
        else:
            for frame in traceback.extract_tb(error.__traceback__):
                if Path(frame.filename) == path.resolve():
                    where = f"{path}:{frame.lineno}: {frame.line}"
        raise SettingError(
            f"the file fails with {type(error).__name__}: {error}",
            where=where,
            remedy="mend that line; a function that is named is called without arguments",
        ) from error
