"""Loading: verify, then open; nothing is opened that was not hashed."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leanly.artifact import Artifact, Kernel, Predictor
from leanly.bundle.manifest import COPY_AGAIN
from leanly.bundle.payload import SUFFIX, opened
from leanly.bundle.signing import Key
from leanly.bundle.verifying import Contents, verify
from leanly.errors import BundleError
from leanly.runtimes import open_artifact
from leanly.structure import flatten


class BundlePredictor:
    """An opened bundle; safe to call from many threads. A call goes to the artifact of the nearest batch size.

    Args:
        contents: the verified bundle.
        opened: the predictor for each batch size.
    """

    def __init__(self, contents: Contents, opened: Mapping[int, Predictor]) -> None:
        self.contents = contents
        self._opened = dict(sorted(opened.items()))
        self._seen: set[int] = set()
        self._lock = threading.Lock()
        inputs = self.artifact.inputs
        self._batch_input = next((i for i, spec in enumerate(inputs) if spec.shape and spec.shape[0] == "batch"), None)

    @property
    def artifact(self) -> Artifact:
        """The artifact of the smallest batch size."""
        return next(iter(self._opened.values())).artifact

    @property
    def artifacts(self) -> dict[int, Artifact]:
        """The artifact for each batch size."""
        return {batch: predictor.artifact for batch, predictor in self._opened.items()}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Take numpy arrays or torch tensors, give the same kind back in the model's own structure."""
        batch = self._batch_of(flatten((args, kwargs))[1])
        result = self.nearest(batch)(*args, **kwargs)
        self._check(batch)
        return result

    def run(self, arrays: list[Any]) -> list[Any]:
        """Take flat numpy arrays in the artifact's order, give flat numpy arrays."""
        batch = self._batch_of(arrays)
        result = self.nearest(batch).run(arrays)
        self._check(batch)
        return result

    def kernels(self) -> tuple[Kernel, ...]:
        """Read from the runtime which precision each node of the smallest batch size's artifact runs in."""
        return next(iter(self._opened.values())).kernels()

    def nearest(self, batch_size: int) -> Predictor:
        """Return the predictor that answers for a batch size; of two as near, the one made for more rows."""
        return self._opened[min(self._opened, key=lambda size: (abs(size - batch_size), -size))]

    def _batch_of(self, leaves: list[Any]) -> int:
        if self._batch_input is None or self._batch_input >= len(leaves) or not leaves[self._batch_input].shape:
            return 1  # the predictor says what is wrong with such inputs
        return int(leaves[self._batch_input].shape[0])

    def _check(self, batch: int) -> None:
        """A runtime may read the files when a batch size is first seen: an answer from altered files is not given."""
        if batch in self._seen:
            return
        with self._lock:
            self.contents.check_unchanged()
            self._seen.add(batch)


def load(path: str | Path, *, public_key: Key | None = None, threads: int | None = None) -> BundlePredictor:
    """Verify a bundle and open it in the runtimes it was measured in.

    Args:
        path: the bundle's folder.
        public_key: asks for a signature by this key: a file (PEM or 32 raw bytes), or its bytes.
        threads: worker threads for batch sizes that were not measured; default all cores.

    Raises:
        BundleError: it is not as it was made, or not signed by the key asked for.
        MissingExtra: its runtime is not installed.
    """
    contents = verify(path, public_key)
    places = _places(contents)
    artifacts = {place: Artifact.open(contents.path / place) for place in set(places.values())}
    for place, artifact in artifacts.items():
        _check_listed(contents, place, artifact)
    predictors = {place: open_artifact(opened(artifact), threads=threads) for place, artifact in artifacts.items()}
    contents.check_unchanged()
    return BundlePredictor(contents, {batch: predictors[place] for batch, place in places.items()})


def _places(contents: Contents) -> dict[int, str]:
    try:
        places = {int(batch): os.fspath(place) for batch, place in contents.document["artifacts"].items()}
        if not places or any(f"{place}/artifact.json" not in contents.files for place in places.values()):
            raise ValueError("an artifact is not in the bundle")
    except (ValueError, TypeError) as error:
        raise BundleError(
            f"the description is damaged ({error})", where=str(contents.path / "bundle.json"), remedy=COPY_AGAIN
        ) from error
    return places


def _check_listed(contents: Contents, place: str, artifact: Artifact) -> None:
    """Files that an artifact names must be among those that were hashed."""
    for name in artifact.files:
        inner = f"{place}/{name}"
        if inner + SUFFIX in contents.files and name == artifact.files[0]:
            continue
        if inner not in contents.files and not any(file.startswith(f"{inner}/") for file in contents.files):
            raise BundleError("an artifact names a file that is not in the bundle", where=inner, remedy=COPY_AGAIN)
