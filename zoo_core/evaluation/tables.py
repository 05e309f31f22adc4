"""Rows of text as a table, for a terminal or for Markdown."""

from __future__ import annotations

from collections.abc import Sequence

Row = tuple[str, ...]


def text_table(header: Row, rows: Sequence[Row]) -> str:
    """Columns aligned for a terminal: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if k else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (header, *rows)
    )


def markdown_table(header: Row, rows: Sequence[Row]) -> str:
    """The same as a Markdown table, numbers to the right."""
    ruler = ("---", *("---:" for _ in header[1:]))
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ruler, *rows))
