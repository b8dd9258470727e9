"""Copies of a file with damage in them, drawn from a seed: what disks, networks and strangers do to an mp4."""

import random
from collections.abc import Callable

BOXES = (
    b"ftyp moov mvhd trak tkhd edts elst mdia mdhd hdlr minf dinf dref stbl stsd avc1 avcC mp4a esds "
    b"stts ctts stss stsc stsz stco sgpd sbgp udta mdat"
).split()
NUMBERS = (0, 1, 2, 0x7F, 0xFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
"""What is written over a field of the index: where parsers go wrong."""


def damaged(data: bytes, seed: int, number: int) -> bytes:
    """Copy `number` of a file, with one to three kinds of damage; the same for the same arguments."""
    rng = random.Random(f"{seed}/{number}")
    copy = bytearray(data)
    for damage in rng.choices(DAMAGES, k=rng.randint(1, 3)):
        if len(copy) > 8:
            damage(copy, rng)
    return bytes(copy)


def flip_bytes(copy: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 10, 100, 1_000))):
        copy[rng.randrange(len(copy))] ^= rng.randrange(1, 256)


def zero_range(copy: bytearray, rng: random.Random) -> None:
    start, end = _range(copy, rng)
    copy[start:end] = bytes(end - start)


def cut_off(copy: bytearray, rng: random.Random) -> None:
    del copy[rng.randrange(len(copy)) :]


def leave_out_range(copy: bytearray, rng: random.Random) -> None:
    start, end = _range(copy, rng)
    del copy[start:end]


def duplicate_range(copy: bytearray, rng: random.Random) -> None:
    start, end = _range(copy, rng)
    copy[end:end] = copy[start:end]


def swap_ranges(copy: bytearray, rng: random.Random) -> None:
    size = rng.randint(1, len(copy) // 4)
    a, b = (rng.randrange(len(copy) - size) for _ in range(2))
    copy[a : a + size], copy[b : b + size] = copy[b : b + size], copy[a : a + size]


def edit_field(copy: bytearray, rng: random.Random) -> None:
    """Write a telling number over the length of a box or one of the fields behind its name."""
    places = [place for name in BOXES if (place := copy.find(name)) >= 4]
    if places:
        place = rng.choice(places) + 4 * rng.randint(-1, 16)
        copy[place : place + 4] = rng.choice((*NUMBERS, rng.getrandbits(32))).to_bytes(4, "big")


DAMAGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip_bytes, zero_range, cut_off, leave_out_range, duplicate_range, swap_ranges, edit_field, edit_field, edit_field,
)  # fmt: skip


def _range(copy: bytearray, rng: random.Random) -> tuple[int, int]:
    """A range of any size from one byte to half of the file, small ones as likely as large ones."""
    size = round((len(copy) / 2) ** rng.random())
    start = rng.randrange(len(copy) - size)
    return start, start + size
