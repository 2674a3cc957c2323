"""Saving: the artifacts, what led to them, and the manifest over all of it, in one step."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from leanly.artifact import Artifact
from leanly.bundle.manifest import MANIFEST, SIGNATURE, of_files
from leanly.bundle.payload import copy_coded
from leanly.bundle.signing import Key, hex_of, read_private, sign
from leanly.bundle.verifying import DOCUMENT, walk
from leanly.errors import SettingError
from leanly.files import replacing_folder, write_json

FORMAT = 1


class Savable(Protocol):
    """A graph, or whatever else writes itself into a folder."""

    def save(self, folder: Any) -> Any: ...


def save(
    path: str | Path,
    *,
    artifacts: Mapping[int, Artifact],
    document: Mapping[str, Any],
    graph: Savable | Path | None = None,
    measurements: Path | None = None,
    key: Key | None = None,
) -> Path:
    """Write a bundle; it appears under its name whole or not at all.

    Args:
        path: the folder to make; an older bundle there is replaced, anything else is left alone and refused.
        artifacts: the artifact for each batch size; one for several batch sizes is stored once.
        document: JSON data: best, budget, verdict, recipe, machine, versions.
        graph: the captured model, or the folder it was saved in.
        measurements: folder with the raw measurements.
        key: private key that signs: a file (PEM or 32 raw bytes), or its bytes.

    Raises:
        SettingError: there is no artifact, or the key can't be read.
        RunError: the folder can't be written, or holds something else than a bundle.
    """
    if not artifacts:
        raise SettingError("there is no artifact to save", where=str(path), remedy="save a result that has a best")
    private = None if key is None else read_private(key)
    path = Path(path)
    with replacing_folder(path, MANIFEST, "a bundle") as folder:
        places = _copy_artifacts(folder, artifacts)
        if graph is not None:
            _put(graph, folder / "graph")
        if measurements is not None:
            _put(measurements, folder / "measurements")
        # the format and the artifacts come last: no caller's entry may stand in their place
        write_json(folder / DOCUMENT, {**document, "format": FORMAT, "artifacts": places})
        _drop_empty(folder)
        names = list(walk(folder))
        manifest = of_files(folder, names, None if private is None else hex_of(private.public_key()))
        (folder / MANIFEST).write_bytes(manifest.to_bytes())
        if private is not None:
            (folder / SIGNATURE).write_bytes(sign(manifest.to_bytes(), private))
        for name in walk(folder):
            _flush(folder / name)
    return path


def _copy_artifacts(folder: Path, artifacts: Mapping[int, Artifact]) -> dict[str, str]:
    """Copy each artifact once; return its place in the bundle by batch size."""
    places: dict[str, str] = {}
    stored: dict[tuple[Path, str], str] = {}
    for batch, artifact in sorted(artifacts.items()):
        # with other plans the same files are another artifact: a plan is part of what was measured
        identity = (artifact.folder.resolve(), repr(sorted(artifact.plans.items())))
        place = stored.setdefault(identity, f"artifacts/batch-{batch}")
        places[str(batch)] = place
        if (folder / place).exists():
            continue
        copy_coded(artifact, folder / place)
        replace(artifact, folder=folder / place).save()
    return places


def _put(source: Savable | Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(source, Path):
        source.save(to)
    elif source.is_dir():
        shutil.copytree(source, to, copy_function=shutil.copyfile)
    else:
        shutil.copyfile(source, to)


def _drop_empty(folder: Path) -> None:
    """Take away folders that hold nothing: the manifest can't vouch for them."""
    for inner, _, _ in os.walk(folder, topdown=False):
        if Path(inner) != folder and not any(Path(inner).iterdir()):
            Path(inner).rmdir()


def _flush(path: Path) -> None:
    path.chmod(0o644)
    with open(path, "rb") as file:
        os.fsync(file.fileno())
