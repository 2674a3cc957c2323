"""What leanly is measured against: NNCF and ONNX Runtime's quantizers at their strongest settings, and float files.

`python -m bench.peers install` makes the environment that NNCF runs in; `python -m bench.peers make` writes the files.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.data import CACHE
from bench.models.subjects import SUBJECTS, Arrays, Subject
from leanly.target import Target

HERE = Path(__file__).parent
VNNI = Target("cpu").vnni
"""Without it sums of two products saturate: there peers get weights of 7 bits as well."""
VARIABLE = "LEANLY_{}_ENV"
"""Of NNCF or BREVITAS: names another environment that holds what its requirements ask for."""


@dataclass(frozen=True)
class Peer:
    """One file of a peer.

    Args:
        family: "nncf", "ort" or "float".
        name: the settings that made it, short.
        path: IR (`.xml`, its `.bin` beside it) or ONNX.
        precision: "int8" or "float32".
    """

    family: str
    name: str
    path: Path
    precision: str


def work(subject: Subject) -> Path:
    """Return the folder that holds the files made for a network."""
    return CACHE / "int8" / subject.name


def python(name: str = "nncf") -> Path:
    """Return the interpreter of a peer's environment, which is made when it is not there."""
    variable = VARIABLE.format(name.upper())
    given = os.environ.get(variable)
    if given:
        found = Path(given) / "bin" / "python"
        if not found.exists():
            raise SystemExit(f"{variable}={given} holds no bin/python")
        return found
    return install(name)


def install(name: str = "nncf") -> Path:
    """Make a peer's environment from its pinned requirements; whole or absent, and again only when they change."""
    environment, requirements = CACHE / "envs" / name, HERE / f"requirements-{name}.txt"
    done, wanted = environment / "installed.txt", requirements.read_text()
    interpreter = environment / "bin" / "python"
    if done.exists() and done.read_text() == wanted:
        return interpreter
    print(f"making {environment} ...", flush=True)
    venv.create(environment, with_pip=True, clear=True)
    subprocess.run([interpreter, "-m", "pip", "install", "--quiet", "-r", requirements], check=True)
    done.write_text(wanted)
    return interpreter


def prepare(subject: Subject, data_dir: Path) -> None:
    """Write the float files and the calibration rows that every peer starts from."""
    import torch

    from bench.export import export_ir, export_onnx

    folder = work(subject)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "prepared").exists():
        return
    model, rows = subject.model(data_dir), subject.calibration(data_dir)
    torch.set_num_threads(1)
    export_onnx(subject, model, rows.inputs, folder / "float.onnx")
    export_ir(subject, model, rows.inputs, folder / "float.xml")
    for index, array in enumerate(rows.inputs):
        np.save(folder / f"calibration_{index}.npy", array)
    (folder / "prepared").touch()


def calibration(subject: Subject) -> Arrays:
    """Read the calibration rows that `prepare` wrote."""
    return tuple(np.load(path) for path in calibration_files(subject))


def floats(subject: Subject) -> Iterator[Peer]:
    """Yield the float files."""
    yield Peer("float", "onnx", work(subject) / "float.onnx", "float32")
    yield Peer("float", "torch", work(subject) / "float.xml", "float32")


def nncf(subject: Subject, quick: bool = False) -> Iterator[Peer]:
    """Yield NNCF's int8 files over its settings, and quantize those that are not there yet; few of them if `quick`."""
    sources = {"onnx": work(subject) / "float.onnx", "torch": work(subject) / "float.xml"}
    overflows = ("cpu", "spr") if VNNI else ("cpu", "spr", "half")
    for source, preset, fast, overflow in itertools.product(
        ("onnx",) if quick else sources, ("mixed", "performance"), (True,) if quick else (True, False), overflows
    ):
        name = f"{source}-{preset}-{'fast' if fast else 'full'}-{overflow}"
        path = work(subject) / "nncf" / name / "model.xml"
        refused = path.with_name("refused.txt")
        if refused.exists():
            continue
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            flags = ["--fast-bias-correction" if fast else "--no-fast-bias-correction", "--overflow", overflow]
            flags += ["--transformer"] if subject.name.startswith("minilm") else []
            command = [python(), HERE / "peer_nncf.py", "--model", sources[source], "--preset", preset, *flags]
            command += ["--calibration", *calibration_files(subject), "--inputs", *subject.input_names, "--out", path]
            done = subprocess.run(
                [str(part) for part in command],
                capture_output=True,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            if done.returncode:
                refused.write_text(done.stderr)
                print(f"{subject.name}: NNCF refuses {name}: {_last_line(done.stderr)}", flush=True)
                continue
            facts = json.loads(done.stdout.strip().splitlines()[-1])
            path.with_name("facts.json").write_text(json.dumps(facts))
            print(f"{subject.name}: NNCF {name} in {facts['seconds']:.1f} s", flush=True)
        yield Peer("nncf", name, path, "int8")


def calibration_files(subject: Subject) -> list[Path]:
    """Return the files of the calibration rows, one an input, in order."""
    return [work(subject) / f"calibration_{index}.npy" for index in range(len(subject.input_names))]


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]


def main() -> None:
    """Install the peer's environment, or make every peer's files."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("action", choices=("install", "make"))
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"))
    parser.add_argument("--rows", default=",".join(subject.name for subject in SUBJECTS))
    options = parser.parse_args()
    if options.action == "install":
        print(install())
        return
    for subject in SUBJECTS:
        if subject.name in options.rows.split(","):
            prepare(subject, options.data_dir)
            from bench.peer_ort import onnxruntime

            for _ in itertools.chain(onnxruntime(subject), nncf(subject)):
                sys.stdout.flush()


if __name__ == "__main__":
    main()
