"""Draws pictures side by side, each whole and with the same part enlarged, under its label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

WIDEST_PANEL = 640
"""Wider pictures are shrunk to this many pixels; the enlarged part always comes from the full picture."""

ENLARGEMENT = 4

_MARGIN = 12
_LINE = 22
_LABEL_WIDTH = 300
_INK, _PAPER, _FRAME = (20, 20, 20), (255, 255, 255), (255, 64, 0)

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels, as Pillow has them."""


def side_by_side(
    pictures: Sequence[tuple[Sequence[str], Image.Image]], part: Box | None = None
) -> Image.Image:
    """One sheet with a column for each picture: label, whole picture, enlarged part.

    Args:
        pictures: (lines of the label, RGB picture); all of the same size.
        part: a square to be enlarged. By default where the first picture, the original, has most detail, so
            that the choice favours no codec.

    Returns:
        RGB picture.
    """
    part = part or busiest_part(pictures[0][1])
    columns = [_column(label, picture, part) for label, picture in pictures]
    width, height = columns[0].size
    sheet = Image.new("RGB", (_MARGIN + len(columns) * (width + _MARGIN), height + 2 * _MARGIN), _PAPER)
    for index, column in enumerate(columns):
        sheet.paste(column, (_MARGIN + index * (width + _MARGIN), _MARGIN))
    return sheet


def busiest_part(picture: Image.Image) -> Box:
    """The square with the strongest edges among those of a grid; enlarged, it is as wide as the panel."""
    width, height = picture.size
    side = max(1, min(width, height, _panel_width(picture) // ENLARGEMENT))
    detail = np.asarray(picture.convert("L").filter(ImageFilter.FIND_EDGES).reduce(side))
    row, column = np.unravel_index(np.argmax(detail), detail.shape)
    left, top = min(int(column) * side, width - side), min(int(row) * side, height - side)
    return left, top, left + side, top + side


def _panel_width(picture: Image.Image) -> int:
    return min(picture.width, WIDEST_PANEL)


def _column(label: Sequence[str], picture: Image.Image, part: Box) -> Image.Image:
    """Label, whole picture with the part framed, and the part enlarged without smoothing."""
    width = _panel_width(picture)
    scale = width / picture.width
    whole = picture.resize((width, max(1, round(picture.height * scale))), Image.Resampling.LANCZOS)
    ImageDraw.Draw(whole).rectangle([round(edge * scale) for edge in part], outline=_FRAME, width=2)
    enlarged = picture.crop(part).resize((width, width), Image.Resampling.NEAREST)
    top = _LINE * len(label) + _MARGIN // 2
    height = top + whole.height + _MARGIN + enlarged.height
    column = Image.new("RGB", (max(width, _LABEL_WIDTH), height), _PAPER)
    for number, line in enumerate(label):
        ImageDraw.Draw(column).text((0, number * _LINE), line, _INK, ImageFont.load_default(size=16))
    column.paste(whole, (0, top))
    column.paste(enlarged, (0, top + whole.height + _MARGIN))
    return column
