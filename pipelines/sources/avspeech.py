"""AVSpeech (Ephrat et al. 2018): csv files of segments of YouTube videos, and the segments cut out.

    avspeech_train.csv, avspeech_test.csv     YouTube id, start and end in seconds, x and y of the face
    <anything>/_raOc3-IRsw_90.000000_93.5.mp4     one segment, anywhere below: {id}_{start}_{end}.mp4

Times are compared as numbers, to the millisecond. x and y, fractions of the frame, are the clip's track: a point. There
is no identity, so the video is the speaker. The official csv files give the split; a video in any other *.csv is put
into train, val or test by its hash. A video that several of them name keeps the first's split: test, train, others.
"""

import math
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from featurestore.clip import SPLITS, Clip
from featurestore.errors import UsageError
from pipelines.sources.entries import Odd, entries, is_text, walk
from pipelines.sources.splits import split_of

DATASET = "avspeech"
LAYOUT = "avspeech_train.csv and avspeech_test.csv (or other *.csv: id,start,end,x,y), and <id>_<start>_<end>.mp4 below"

_OFFICIAL = {"avspeech_test.csv": "test", "avspeech_train.csv": "train"}
_TIME = r"([0-9]{1,9}(?:\.[0-9]{1,20})?)"
_FILE = re.compile(rf"(.+)_{_TIME}_{_TIME}\.mp4")
_ROWS_LOOKED_AT = 100


@dataclass(frozen=True, slots=True)
class _Segment:
    """video: YouTube id; times: `<start>_<end>` in seconds, without zeros at the end; x, y: fractions of the frame."""

    video: str
    times: str
    x: float
    y: float


def fits(root: Path) -> bool:
    return any(
        table.name in _OFFICIAL or any(_is_segment(line) for _, line in islice(_lines(table), _ROWS_LOOKED_AT))
        for table in _tables(root)
    )


def check(root: Path) -> None:
    """Raises UsageError if no row of the csv files is a segment."""
    tables = _tables(root)
    if not any(_is_segment(line) for table in tables for _, line in _lines(table)):
        place, line = next((line for table in tables for line in _lines(table)), (str(tables[0]), ""))
        why = _segment(line) if line else "it is empty"
        raise UsageError(f"{place}: {why}; and no other row is YouTube id,start,end,x,y either.")


def scan(root: Path, splits: Collection[str] = SPLITS) -> Iterator[Clip | Odd]:
    """Clips in the order of the csv files' rows, the test file first. The paths of all clips are held in memory."""
    tables = _tables(root)
    files: dict[tuple[str, str], str] = {}
    for found in walk(root):
        if isinstance(found, Odd):
            yield found
            continue
        for file in found:
            named = _FILE.fullmatch(file.name)
            if named is None:
                if Path(file.path) not in tables:
                    yield Odd("not a clip (<id>_<start>_<end>.mp4)", file.path)
            elif (key := (named[1], _times(named[2], named[3]))) in files:
                yield Odd("second file of a segment", file.path)
            else:
                files[key] = os.path.abspath(file.path)
    for row in _rows(tables, files):
        if isinstance(row, Odd) or row.split in splits:
            yield row
    yield from (Odd("clip without a row", path) for path in files.values())


def seconds(clip: Clip) -> float | None:
    """The length that the segment's times say."""
    start, end = clip.clip_id.split("/")[3].split("_")
    return float(end) - float(start)


def _rows(tables: list[Path], files: dict[tuple[str, str], str]) -> Iterator[Clip | Odd]:
    """The clips that the rows name, each taken out of `files`; rows that name none are odd."""
    split_by_video: dict[str, str] = {}
    taken = set()
    for table in tables:
        for place, line in _lines(table):
            segment = _segment(line)
            if isinstance(segment, str):
                yield Odd("row that is not id,start,end,x,y", f"{place}: {segment}")
                continue
            own_split = split_of(DATASET, segment.video, _OFFICIAL.get(table.name, ""))
            split = split_by_video.setdefault(segment.video, own_split)
            key = segment.video, segment.times
            if key in taken:
                yield Odd("second row of a segment", place)
                continue
            path = files.pop(key, "")
            if not path:
                yield Odd("row without a clip", place)
                continue
            taken.add(key)
            if split != own_split:
                yield Odd(f"clip of a video that another csv file puts into {split}", path)
            yield Clip(
                clip_id=f"{DATASET}/{segment.video}/{segment.video}/{segment.times}",
                path=path,
                split=split,
                face_track=((0, segment.x, segment.y, 0.0, 0.0),),
            )


def _tables(root: Path) -> list[Path]:
    """The csv files, the official ones first."""
    order = list(_OFFICIAL)
    names = [entry.name for entry in entries(root) if entry.name.endswith(".csv") and not entry.name.startswith(".")]
    names.sort(key=lambda name: (order.index(name) if name in order else len(order), name))
    return [root / name for name in names if (root / name).is_file()]


def _lines(table: Path) -> Iterator[tuple[str, str]]:
    """(file:line, line) of the lines that are not blank."""
    with table.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, 1):
            line = line.strip()
            if line and not (number == 1 and _is_header(line)):
                yield f"{table}:{number}", line


def _is_segment(line: str) -> bool:
    return isinstance(_segment(line), _Segment)


def _segment(line: str) -> _Segment | str:
    """The segment of a csv line, or why it is none."""
    values = [value.strip() for value in line.split(",")]
    if len(values) != 5:
        return f"{len(values)} values, not 5"
    video, *texts = values
    try:
        start, end, x, y = map(float, texts)
    except ValueError:
        return f"start, end, x and y are not numbers: {', '.join(texts)}"
    if not video or "/" in video or not is_text(video):
        return f"{video!r} is no YouTube id"
    if not 0 <= start < end < math.inf:
        return f"the segment from {start:g} s to {end:g} s has no length"
    if not (0 <= x <= 1 and 0 <= y <= 1):
        return f"x {x:g} and y {y:g} are not fractions of the frame"
    return _Segment(video, _times(*texts[:2]), x, y)


def _is_header(line: str) -> bool:
    """Whether a first line names the columns: the official files have none, people add one."""
    return [name.strip().lower() for name in line.split(",")][1:] == ["start", "end", "x", "y"]


def _times(start: str, end: str) -> str:
    return "_".join(f"{float(time):.3f}".rstrip("0").rstrip(".") for time in (start, end))
