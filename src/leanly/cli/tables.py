"""Tables as plain text, the same in a terminal, a pipe and a log."""

from __future__ import annotations

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Return lines with the columns aligned.

    Args:
        header: titles.
        rows: cells, as many in each row as there are titles.
        right: positions of the columns that stand on the right, such as numbers.

    >>> print(table(["layer", "MACs"], [["conv1", "225 k"], ["fc1", "314 k"]], right=[1]))
    layer   MACs
    -----  -----
    conv1  225 k
    fc1    314 k
    """
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])

    def aligned(line: list[str]) -> str:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join(map(aligned, lines))
