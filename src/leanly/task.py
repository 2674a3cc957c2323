"""Task: everything known about the job: the model, an example, the data, the metric and the loss."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from leanly import checks
from leanly.arguments import Arguments
from leanly.data import Split
from leanly.errors import DataError, LeanlyWarning
from leanly.files import digest
from leanly.losses import resolve_loss
from leanly.metrics import resolve_metric
from leanly.suggest import suggestion

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False, repr=False)
class Task:
    """Everything known about the job.

    Args:
        model: trained nn.Module, torch.export.ExportedProgram, or a leanly.Graph, as one that was saved and opened; it
            is never changed.
        example: one tensor, a tuple (by position) or a dict (by keyword) of example inputs, batch first.
        train: rows to train and calibrate with: Dataset of `(x, y)`, DataLoader, or `(inputs, targets)`;
            `(inputs, None)` where there are no targets, which calibrating, cutting and teaching don't need.
        validation: rows that steer the search.
        test: rows that certify once, at the end; without them a result is not certified.
        metric: name, or callable `(predictions, targets) -> float`, higher is better.
        loss: name, or callable `(outputs, targets) -> scalar tensor`.
        dynamic: dimensions besides the batch that vary, by input: `{"input_ids": {1: "length"}}`.
        static: names of inputs that carry no batch in dimension 0; they are taken from the example.
        name: what reports call it; by default the model's class.

    Raises:
        DataError: something here can't be used; `check()` looks at every row as well.
    """

    model: Any
    example: Any
    train: Any = None
    validation: Any = None
    test: Any = None
    metric: Any = "accuracy"  # a `Metric` once constructed, whatever was given
    loss: str | Callable[[Any, Any], Any] = "cross_entropy"
    dynamic: Mapping[str, Mapping[int, str]] | None = None
    static: Iterable[str] = ()
    name: str = ""
    arguments: Arguments = field(init=False)
    _splits: dict[str, Split] = field(init=False)

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        if callable(as_module := getattr(self.model, "as_module", None)):
            set_field(self, "model", as_module())
        if not isinstance(self.model, torch.nn.Module) and not checks.is_exported(self.model):
            raise DataError(
                f"the model is a {type(self.model).__name__}",
                where="Task.model",
                remedy="give a trained torch.nn.Module or torch.export.ExportedProgram",
            )
        set_field(self, "static", (self.static,) if isinstance(self.static, str) else tuple(self.static))
        set_field(self, "name", self.name or type(self.model).__name__)
        set_field(self, "arguments", Arguments(self.model, self.example, self.static))
        set_field(self, "metric", resolve_metric(self.metric))
        resolve_loss(self.loss)
        self._check_dynamic()
        checks.check_device(self.model, self.arguments)
        given = {name: getattr(self, name) for name in SPLITS}
        splits = {name: Split(name, data, self.arguments) for name, data in given.items() if data is not None}
        for name, split in splits.items():
            if name != "train":
                split.check_labelled("the metric", "or leave it out: rows without targets go into train=")
        set_field(self, "_splits", splits)
        if isinstance(self.model, torch.nn.Module) and self.model.training:
            warnings.warn(
                "The model is in train mode; leanly evaluates a copy in eval mode and leaves yours as it is. "
                "What to do: nothing, or call model.eval() first.",
                LeanlyWarning,
                stacklevel=3,
            )

    def __repr__(self) -> str:
        return f"Task({self.name!r}, metric={self.metric.name!r}, splits={list(self._splits.values())})"

    def split(self, name: str) -> Split | None:
        """Return "train", "validation" or "test", or None where the task has none.

        Raises:
            DataError: another name.
        """
        if name not in SPLITS:
            raise DataError(f"there is no split {name!r}", where="Task.split", remedy=suggestion(name, SPLITS))
        return self._splits.get(name)

    def seen_split(self) -> Split | None:
        """Return the rows that passes look at: "train", or "validation" where there is none."""
        return self.split("train") or self.split("validation")

    @property
    def loss_function(self) -> Callable[[Any, Any], Any]:
        """The loss, resolved: `(outputs, targets) -> scalar tensor`."""
        return resolve_loss(self.loss)

    def score(self, outputs: Any, targets: Any) -> float:
        """Return the metric of outputs (tensors or arrays in the model's own structure) over a whole split.

        Raises:
            DataError: the metric fails, or gives no finite number.
        """
        if isinstance(targets, torch.Tensor):
            targets = targets.detach().cpu().numpy()
        return self.metric.score(checks.to_numpy(outputs), targets)

    def check(self) -> None:
        """Look at everything once, before any work: weights, the example in the model, and every row of every split.

        Raises:
            DataError: what is wrong, where, and what to do.
        """
        checks.check_weights(self.model)
        outputs = checks.run_example(self.model, self.arguments)
        checks.check_repeats(self.model, self.arguments, outputs)
        splits = list(self._splits.values())
        labelled = next((split for split in splits if split.labelled), None)
        classes = checks.class_count(outputs, self.metric, self.loss, labelled)
        dynamic = {name: dict(dimensions) for name, dimensions in (self.dynamic or {}).items()}
        for split in splits:
            checks.check_split(split, self.arguments, dynamic, classes)
            checks.check_order(split)
        scored = self.split("validation") or self.split("test")
        if scored is not None:
            checks.check_sample(self.model, scored, self.metric)
        checks.check_shared(splits)

    def fingerprint(self) -> str:
        """Return a SHA-256 over the model's class and weights, the example's specs, data, metric and loss."""
        weights = {name: _digest(tensor) for name, tensor, _ in checks.named_tensors(self.model)}
        inputs = zip(self.arguments.names, self.arguments.tensors, strict=True)
        loss = self.loss if isinstance(self.loss, str) else getattr(self.loss, "__name__", type(self.loss).__name__)
        return digest(
            {
                "model": type(self.model).__name__,
                "weights": weights,
                "inputs": [[name, str(tensor.dtype), list(tensor.shape[1:])] for name, tensor in inputs],
                "structure": self.arguments.structure,
                "static": list(self.static),
                "dynamic": {k: {str(d): n for d, n in v.items()} for k, v in (self.dynamic or {}).items()},
                "metric": self.metric.name,
                "loss": loss,
                "splits": {name: split.digest for name, split in self._splits.items()},
            }
        )

    def _check_dynamic(self) -> None:
        for name, dimensions in (self.dynamic or {}).items():
            where = f"Task.dynamic[{name!r}]"
            if name not in self.arguments.names:
                raise DataError(
                    f"dynamic names {name!r}, which is no input",
                    where=where,
                    remedy=suggestion(name, self.arguments.names),
                )
            rank = self.arguments.tensors[self.arguments.names.index(name)].ndim
            first = 0 if name in self.arguments.static else 1
            for dimension, label in dimensions.items():
                if not isinstance(dimension, int) or not first <= dimension < rank:
                    raise DataError(
                        f"dimension {dimension!r} can't be named: the input has dimensions 0 (the batch) to {rank - 1}",
                        where=where,
                        remedy='write for example {1: "length"}',
                    )
                if not isinstance(label, str) or not label.isidentifier() or label == "batch":
                    raise DataError(
                        f"{label!r} can't name a dimension",
                        where=where,
                        remedy='use a word such as "length"; "batch" is taken',
                    )


def _digest(tensor: torch.Tensor) -> str:
    content = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    content.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()
