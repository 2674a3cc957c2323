"""What leanly says when something is wrong: what happened, where, and what to do next."""

from __future__ import annotations


class LeanlyError(Exception):
    """A mistake or a limit, told in one paragraph.

    Args:
        what: what was wrong, with the value found.
        where: the user's source line, the tensor's name or the file.
        remedy: what to do next.
    """

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what, self.where, self.remedy = what, where, remedy
        sentences = [what.rstrip(".") + "."]
        if where:
            sentences.append(f"Where: {where.rstrip('.')}.")
        if remedy:
            sentences.append(f"What to do: {remedy.rstrip('.')}.")
        self._told = " ".join(sentences)
        super().__init__(self._told)

    def __str__(self) -> str:
        return self._told  # torch.fx adds to the arguments of what is raised while a graph runs


class CaptureError(LeanlyError):
    """The model could not be turned into a graph."""


class DataError(LeanlyError):
    """A split, an example or a metric can't be used."""


class SettingError(LeanlyError):
    """A setting (budget, target, pass) is out of its range."""


class TrainingError(LeanlyError):
    """Training could not go on: the loss is no number, and nothing good was reached before."""


class LoweringError(LeanlyError):
    """A graph could not be turned into an artifact that does what the graph does."""


class MissingExtra(LeanlyError):
    """An optional dependency is not installed."""


class BundleError(LeanlyError):
    """A bundle or a graph folder is torn, altered, or from another version."""


class RunError(LeanlyError):
    """A run folder can't be written, resumed, or belongs to another task."""


class WorkerError(LeanlyError):
    """A measurement worker died or could not open its artifact."""


class LeanlyWarning(UserWarning):
    """Something the user should know; the work goes on."""
