"""Artifact: the files of one lowered model, and the protocol of what opens it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from leanly.errors import BundleError
from leanly.files import inside, read_json, write_json
from leanly.structure import Structure, TensorSpec

DESCRIPTION = "artifact.json"
RUNTIMES = ("onnxruntime", "openvino", "torch")
PRECISIONS = ("float32", "bfloat16", "int8", "binary")
FORMAT = 1
EAGER = "eager"
"""A note on an artifact: run the graph as PyTorch runs a module, without compiling."""


@dataclass(frozen=True)
class Kernel:
    """One node as the runtime ran it: its name, operator, the precision it computed in, and the layer it came from."""

    name: str
    operator: str
    precision: str
    implementation: str = ""


@dataclass(frozen=True)
class Plan:
    """How one batch size is run: worker threads of each stream, streams side by side, rows a stream takes at once."""

    threads: int = 1
    streams: int = 1
    rows: int = 0
    """Rows in one call of the runtime; 0 is the whole batch."""
    static: bool = False
    """The runtime compiles for this very shape instead of a dynamic one."""


@dataclass(frozen=True)
class Artifact:
    """Files of one lowered model; it knows its runtime.

    Args:
        folder: where its files lie; `artifact.json` there describes it.
        runtime: "onnxruntime", "openvino" or "torch".
        precision: what the runtime is asked for: "float32", "bfloat16", "int8" or "binary".
        rest: the precision of what is in float in an int8 or binary artifact: "float32" or "bfloat16".
        files: names in `folder`, the model first.
        inputs, outputs: the flat tensors, in order.
        arguments: structure of `(args, kwargs)`; `returns`: structure of what a call gives back.
        plans: how each batch size is run; other sizes run by the plan of the nearest.
        storage_bits: for each stored tensor, its bits in the runtime's files and its number of elements.
        code_bits: bits of the integers in tensors that the runtime stores in bytes and that need fewer.
        payload_bytes: of all tensors in the files, scales and zero points too, as a bundle holds them: entropy-coded,
            with what it takes to decode them.
        decode_seconds: what decoding them took where it was lowered, or opened from a bundle; part of the time to open.
        proven: the kernels as read from the runtime when it was lowered.
        notes: what the passes said of the graph, as which layers they left; "eager" where PyTorch runs it uncompiled.
    """

    folder: Path
    runtime: str
    precision: str
    files: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    arguments: Structure
    returns: Structure
    rest: str = "float32"
    plans: dict[int, Plan] = field(default_factory=dict)
    storage_bits: dict[str, tuple[int, int]] = field(default_factory=dict)
    code_bits: dict[str, int] = field(default_factory=dict)
    payload_bytes: int = 0
    decode_seconds: float = 0.0
    proven: tuple[Kernel, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def model(self) -> Path:
        """The file (or folder) that the runtime opens."""
        return self.folder / self.files[0]

    @property
    def weights(self) -> Path:
        """The file that holds the tensors."""
        return self.model / "weights.safetensors" if self.runtime == "torch" else self.model

    @property
    def paths(self) -> list[Path]:
        """All its files, those in a folder one by one."""
        found = []
        for path in (self.folder / name for name in self.files):
            found += [file for file in sorted(path.rglob("*")) if file.is_file()] if path.is_dir() else [path]
        return found

    @property
    def bytes(self) -> int:
        """Bytes that the runtime reads."""
        return sum(path.stat().st_size for path in self.paths)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the stored tensors as the runtime reads them."""
        return -(-sum(bits * count for bits, count in self.storage_bits.values()) // 8)

    def kernels(self) -> tuple[Kernel, ...]:
        """List each node with the precision it really ran in, as the runtime said when the artifact was lowered."""
        return self.proven

    def with_plans(self, plans: dict[int, Plan]) -> Artifact:
        """Return the same files, run otherwise."""
        return replace(self, plans=dict(plans))

    def save(self) -> None:
        """Write `artifact.json` beside the files."""
        content = asdict(replace(self, folder=Path()))
        del content["folder"]
        content["plans"] = {str(batch): asdict(plan) for batch, plan in self.plans.items()}
        write_json(self.folder / DESCRIPTION, {"format": FORMAT, **content})

    @staticmethod
    def open(folder: str | Path) -> Artifact:
        """Read `artifact.json` of a folder.

        Raises:
            BundleError: it is missing, torn, of a newer format, names files outside its folder, or a runtime or a
                precision that leanly does not know.
        """
        folder = Path(folder)
        path = folder / DESCRIPTION
        content = read_json(path)
        try:
            version = content.pop("format")
            if version > FORMAT:
                raise BundleError(
                    f"the artifact has format {version}, this leanly reads up to {FORMAT}",
                    where=str(path),
                    remedy="install a newer leanly",
                )
            known = {"runtime": RUNTIMES, "precision": PRECISIONS, "rest": PRECISIONS[:2]}
            for key, values in known.items():
                if (given := content.get(key, values[0])) not in values:
                    raise BundleError(
                        f"unknown {key} {given!r}",
                        where=str(path),
                        remedy=f"copy the folder again, whole; leanly knows {', '.join(values)}",
                    )
            for name in content["files"]:
                inside(folder, name)
            content["files"] = tuple(content["files"])
            for key in ("inputs", "outputs"):
                content[key] = tuple(TensorSpec(s["name"], s["dtype"], tuple(s["shape"])) for s in content[key])
            content["plans"] = {int(batch): Plan(**plan) for batch, plan in content["plans"].items()}
            content["storage_bits"] = {name: (bits, count) for name, (bits, count) in content["storage_bits"].items()}
            content["proven"] = tuple(Kernel(**kernel) for kernel in content["proven"])
            content["notes"] = tuple(content["notes"])
            return Artifact(folder=folder, **content)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise BundleError(
                f"the description of the artifact is damaged ({error!r})",
                where=str(path),
                remedy="lower the model again",
            ) from error


class Predictor(Protocol):
    """An opened artifact; safe to call from many threads."""

    artifact: Artifact

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Take numpy arrays or torch tensors, give the same kind back in the model's own structure."""
        ...

    def run(self, arrays: list[Any]) -> list[Any]:
        """Take flat numpy arrays in the artifact's order, give flat numpy arrays."""
        ...

    def kernels(self) -> tuple[Kernel, ...]:
        """Read from the runtime which precision each node runs in."""
        ...
