"""The slips of SLF's released code that concern the matrix, each by its name, to be put into a layout or mended.

    as_run = with_slips(LAYOUTS["slf-released"], *SLIPS)
    mended = without_slips(LAYOUTS["slf-released"], "asian-at-16")

`slf-released` has the three that the table of its rows shows; the others are what its code does with that table.
One slip is not here: the 8 x 8 guide, nearest-sampled in training and antialiased in evaluation, is no part of the
matrix. Importable without torch, Ray or Lance.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from featurestore.conditioning import EVERY_SECOND, GROUPS, LAST_26, SHARED_16, Block, Layout
from featurestore.errors import UsageError, choose

Change = Callable[[Layout], Layout]


@dataclass(frozen=True)
class Slip:
    """about: what it is. put, mended: functions of a layout that give it with the slip, and without."""

    about: str
    put: Change
    mended: Change


def with_slips(layout: Layout, *names: str) -> Layout:
    """The layout with these slips. A UsageError for an unknown one, and where something is left out already."""
    return _changed(layout, names, "put")


def without_slips(layout: Layout, *names: str) -> Layout:
    """The layout with these slips mended. A UsageError as in `with_slips`."""
    return _changed(layout, names, "mended")


def slips_of(layout: Layout) -> tuple[str, ...]:
    """The names of the slips that a layout has."""
    return tuple(name for name, slip in SLIPS.items() if slip.put(layout) == layout and slip.mended(layout) != layout)


def _changed(layout: Layout, names: tuple[str, ...], how: str) -> Layout:
    if names and layout.off:
        raise UsageError(f"{layout.label}: choose slips ({', '.join(names)}) first, and then what is left out")
    changes = [getattr(SLIPS[choose("slip", name, SLIPS)], how) for name in names]
    return reduce(lambda changed, change: change(changed), changes, layout)


def _block(constituent: str, **changed: Any) -> Change:
    """Replace fields of a constituent's blocks."""

    def change(layout: Layout) -> Layout:
        blocks = (replace(b, **changed) if b.constituent == constituent else b for b in layout.blocks)
        return replace(layout, blocks=tuple(blocks))

    return change


def _layout(**changed: Any) -> Change:
    """Replace fields of the layout."""
    return lambda layout: replace(layout, **changed)


def _cut(layout: Layout) -> Layout:
    """The first row of `mel` is left out with `short_term`, not with the others."""
    blocks: list[Block] = []
    for block in layout.blocks:
        if block.constituent == "mel" and not block.take:
            blocks.append(replace(block, rows=1, take=(0,), switch="short_term"))
            blocks.append(replace(block, row=block.row + 1, rows=block.rows - 1, take=tuple(range(1, block.rows))))
        else:
            blocks.append(block)
    return replace(layout, blocks=tuple(blocks))


def _joined(layout: Layout) -> Layout:
    """`mel` in one block again."""
    blocks: list[Block] = []
    for block in layout.blocks:
        if blocks and block.constituent == blocks[-1].constituent == "mel" and blocks[-1].switch:
            blocks[-1] = replace(block, row=blocks[-1].row, rows=block.rows + 1, take=())
        else:
            blocks.append(block)
    return replace(layout, blocks=tuple(blocks))


_LANGUAGE_NO_AUDIO = {
    "audio": tuple(key for key in GROUPS["audio"] if key != "language"),
    "attributes": (*GROUPS["attributes"], "language"),
}

SLIPS = {
    # in `slf-released`
    "asian-at-16": Slip(
        "ethnicity: asian is column 16, where 1 is free",
        _block("ethnicity", columns=17, codes=(0, 16, 2, 3, 4, 5)),
        _block("ethnicity", columns=6, codes=()),
    ),
    "portuguese-and-spanish-at-16": Slip(
        "language: Portuguese and Spanish share column 16, where 1 is free",
        _block("language", codes=SHARED_16),
        _block("language", codes=()),
    ),
    "last-26-windows": Slip(
        "pyannote: the last 26 of the windows, not 26 spread over the whole clip",
        _block("pyannote", take=LAST_26),
        _block("pyannote", take=EVERY_SECOND),
    ),
    # not in `slf-released`
    "classical-features-cancelled": Slip(
        "short_term and mel are zeros as long as neither of them is left out",
        _layout(cancelled=GROUPS["classical-features"]),
        _layout(cancelled=()),
    ),
    "cut-at-80": Slip(
        "the 79 rows of short_term and the 111 of mel are told apart at 80: mel's first row goes off with short_term",
        _cut,
        _joined,
    ),
    "language-with-attributes": Slip(
        "language is left out with the attributes, and stays on where the audio is left out",
        _layout(groups=_LANGUAGE_NO_AUDIO),
        _layout(groups=GROUPS),
    ),
    "gender-withheld": Slip(
        "gender is never supplied when portraits are drawn",
        _layout(withheld=("gender",)),
        _layout(withheld=()),
    ),
}
