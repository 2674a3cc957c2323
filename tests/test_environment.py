"""The script that makes the virtual environment for `make`; nothing is installed here."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "tools" / "environment.py"


@pytest.fixture
def environment() -> ModuleType:
    spec = importlib.util.spec_from_file_location("environment", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ready(folder: Path) -> Path:
    """Lay a folder that looks like an environment that was made whole."""
    (folder / "bin").mkdir(parents=True)
    (folder / "pyvenv.cfg").write_text("")
    (folder / "left").write_text("of an earlier one")
    return folder


def made_by(environment: ModuleType, monkeypatch: pytest.MonkeyPatch, fails: bool = False) -> list[str]:
    """Record what would be done instead of doing it."""
    done: list[str] = []

    def create(folder: Path, with_pip: bool) -> None:
        assert with_pip
        assert not folder.exists()
        ready(folder)
        (folder / "left").unlink()
        done.append("create")

    def install(command: list[str], **options: object) -> None:
        done.append(str(command[-1]))
        if fails:
            raise KeyboardInterrupt

    monkeypatch.setattr(environment.venv, "create", create)
    monkeypatch.setattr(environment.subprocess, "run", install)
    return done


def test_made_once_then_left_alone(environment: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done = made_by(environment, monkeypatch)
    environment.make("demo", tmp_path / "v")
    environment.make("demo", tmp_path / "v")
    assert done == ["create", ".[demo]"]


def test_the_tests_environment_serves_the_demo_and_is_kept_whole(
    environment: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done = made_by(environment, monkeypatch)
    environment.make("demo", tmp_path / "v")
    environment.make("test", tmp_path / "v")
    environment.make("demo", tmp_path / "v")
    assert done == ["create", ".[demo]", ".[test]"]
    (tmp_path / "v" / "ready").write_text("test " + environment.wanted("test").split()[1] + " older")
    environment.make("demo", tmp_path / "v")
    assert done[3:] == [".[test]"]


def test_one_that_was_cut_off_is_made_anew(
    environment: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "v"
    cut = made_by(environment, monkeypatch, fails=True)
    with pytest.raises(KeyboardInterrupt):
        environment.make("demo", folder)
    assert cut == ["create", ".[demo]"]
    assert not (folder / "ready").exists()
    (folder / "left").write_text("half")
    done = made_by(environment, monkeypatch)
    environment.make("demo", folder)
    assert done == ["create", ".[demo]"]
    assert not (folder / "left").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v"]


def test_an_update_that_was_cut_off_is_made_anew(
    environment: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = ready(tmp_path / "v")
    (folder / "ready").write_text("demo " + environment.wanted("demo").split()[1] + " older")
    cut = made_by(environment, monkeypatch, fails=True)
    with pytest.raises(KeyboardInterrupt):
        environment.make("demo", folder)
    assert cut == [".[demo]"]
    assert not (folder / "ready").exists()


def test_a_folder_that_is_something_else_is_left_alone(environment: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "thesis.tex").write_text("years")
    with pytest.raises(SystemExit, match="no virtual environment"):
        environment.make("demo", tmp_path / "v")
    assert (tmp_path / "v" / "thesis.tex").exists()


def test_an_old_python_is_told_so(environment: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(environment, "OLDEST", (99, 0))
    assert environment.main() == 2
    assert "Python 99.0 or newer is needed" in capsys.readouterr().out


def test_what_ci_runs_is_what_a_developer_runs() -> None:
    text = (SCRIPT.parent.parent / ".ci" / "run").read_text()
    assert "make test" in text
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
