"""What the README and the docstrings show is run, so that it stays true."""

from __future__ import annotations

import doctest
import importlib
import os
import re
from pathlib import Path

import pytest

from tests.forked import python

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
    for path in (ROOT / "src").rglob("*.py")
    if ">>>" in path.read_text()
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_python_of_the_readme_runs_in_order(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks("python")))
    done = python([script.name], tmp_path, {**os.environ, "MPLBACKEND": "Agg"})
    assert done.returncode == 0, done.stderr[-4000:]
    assert (tmp_path / "report.html").is_file()
    assert (tmp_path / "model.leanly" / "manifest.json").is_file()


def test_the_commands_of_the_readme_exist_with_their_options() -> None:
    import typer.main

    from leanly.cli.main import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("leanly ")]
    assert len(lines) >= 8
    for line in lines:
        words = line.partition("#")[0].split()
        known = {option for parameter in commands[words[1]].params for option in parameter.opts}
        used = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert used <= known, line


def test_the_make_targets_of_the_readme_exist() -> None:
    rules = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)", "\n".join(blocks("bash"))))
    assert named
    assert named <= rules


def test_links_inside_the_repository_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_docstring_examples(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name.removesuffix(".__init__")))
    assert found.attempted > 0
    assert found.failed == 0


def test_every_public_name_is_there_and_described() -> None:
    import leanly

    for name in leanly.__all__:
        assert (getattr(leanly, name).__doc__ or "").strip(), name
    assert set(leanly.__all__) <= set(dir(leanly))
    with pytest.raises(AttributeError, match="no attribute 'optimise'"):
        _ = leanly.optimise  # type: ignore[attr-defined]
