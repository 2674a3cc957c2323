from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.search import fakes


@pytest.fixture(autouse=True)
def _close_journals() -> Iterator[None]:
    yield
    for journal in fakes.opened:
        journal.close()
    fakes.opened.clear()
