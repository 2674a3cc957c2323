"""`leanly verify BUNDLE`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leanly.cli.options import PublicKey


def verify(
    bundle: Annotated[Path, typer.Argument(help="A bundle.", show_default=False, metavar="BUNDLE")],
    public_key: PublicKey = None,
) -> None:
    """Check a bundle against its hashes and, when a key is given, its signature; exit code 2 when anything differs."""
    from leanly.cli.finding import find_bundle

    contents = find_bundle(bundle, public_key)
    document = contents.document
    print(f"{bundle} is as it was made: {len(contents.stamps)} files, {contents.bytes:,} bytes in all.")
    if contents.checked:
        print(f"signed by the key that was asked for, {contents.signed_by}")
    elif contents.signed_by is not None:
        print(f"signed by {contents.signed_by}, not checked: give the maker's key with --public-key")
    else:
        print("not signed: it is whole, but anyone could have made it")
    if isinstance(document.get("sentence"), str):
        print(document["sentence"])
    for name, here, there in _other_versions(document.get("versions")):
        print(f"note: it was measured with {name} {there}, here is {here}")


def _other_versions(versions: object) -> list[tuple[str, str, str]]:
    """List the runtimes whose version here differs from the one that was measured."""
    from leanly.target import Target

    if not isinstance(versions, dict):
        return []
    here = Target().versions()
    names = [name for name in ("onnxruntime", "openvino", "torch") if name in versions]
    return [
        (name, here.get(name, "not installed"), versions[name]) for name in names if here.get(name) != versions[name]
    ]
