"""The public face: cheap to import, its names resolved when they are used."""

from __future__ import annotations

import subprocess
import sys


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_imports_nothing_else() -> None:
    heavy = "{'torch', 'numpy', 'typer', 'rich', 'scipy', 'onnxruntime', 'openvino'}"
    assert python(f"import sys, leanly; print({heavy} & {{*sys.modules}})") == "set()"


def test_loading_needs_no_torch_and_no_compiler_stack() -> None:
    heavy = "{'torch', 'scipy', 'onnx', 'typer', 'rich'}"
    assert python(f"import sys, leanly; leanly.load; print({heavy} & {{*sys.modules}})") == "set()"


def test_a_missing_package_is_told_with_the_line_that_installs_it() -> None:
    code = (
        "import sys, leanly; sys.modules['torch'] = None\n"
        "try: leanly.capture\n"
        "except leanly.LeanlyError as error: print(type(error).__name__, error)"
    )
    assert python(code) == (
        'MissingExtra torch is not installed. Where: leanly.capture. What to do: pip install "leanly[cpu]".'
    )
