"""Damaged copies of a real mp4 through decoding and face finding, in processes that may crash and hang.

    python -m infra.fuzz --copies 500 --seed 0

Copy n can be had alone: `infra.damage.damaged(data, seed, n)`.
"""

import multiprocessing
import resource
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import typer

from featurestore.clip import Clip
from featurestore.console import Json, bar, print_json, print_table, say
from featurestore.errors import VoxportraitError
from infra.damage import damaged

DEADLINE, LOADING = 20.0, 300.0
"""Seconds for one copy, and for a process to begin."""

PARTS = ("media", "sound", "face")
ENDS = ("values", "rejected", "crashed", "hung", "failed")


@dataclass(frozen=True)
class Attempt:
    """One copy's end, one of `ENDS`; why: `<what>: <reason>` of each Reject, the exit code or what else was raised.

    seconds: it took; mib: what its process has taken at most so far, beyond what it began with.
    """

    end: str
    why: tuple[str, ...] = ()
    seconds: float = 0.0
    mib: float = 0.0


@dataclass(frozen=True)
class Report:
    """What became of the copies. ends: end -> copies; reasons: of rejects; odd: copy -> what else it came to."""

    copies: int
    ends: dict[str, int]
    reasons: dict[str, int]
    odd: dict[int, str] = field(default_factory=dict)
    slowest_seconds: float = 0.0
    largest_mib: float = 0.0

    @property
    def unaccounted(self) -> int:
        return self.copies - sum(self.ends.values())

    @property
    def clean(self) -> bool:
        """Nothing hung, and nothing was raised but rejects; a crash is printed, and the job's to survive."""
        return not (self.unaccounted or self.ends["hung"] or self.ends["failed"])


def fuzz(
    clip: Path,
    copies: int,
    seed: int = 0,
    processes: int = 2,
    deadline: float = DEADLINE,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Try damaged copies 0 to `copies` - 1 of the clip; a process that crashes or hangs is replaced."""
    data, numbers, attempts = clip.read_bytes(), iter(range(copies)), dict[int, Attempt]()
    with tempfile.TemporaryDirectory() as folder:

        def work(place: int) -> None:
            path = Path(folder) / f"{place}.mp4"
            process = _Process()
            for number in numbers:
                path.write_bytes(damaged(data, seed, number))
                attempts[number] = process.attempt(str(path), deadline)
                progress(len(attempts), copies)
            process.end()

        with ThreadPoolExecutor(processes) as pool:
            list(pool.map(work, range(min(processes, copies))))
    return _report(copies, attempts)


def _report(copies: int, attempts: dict[int, Attempt]) -> Report:
    ends = Counter(attempt.end for attempt in attempts.values())
    rejected = [attempt for attempt in attempts.values() if attempt.end == "rejected"]
    return Report(
        copies,
        {end: ends[end] for end in ENDS},
        dict(Counter(why for attempt in rejected for why in attempt.why).most_common()),
        {n: f"{a.end} {' '.join(a.why)}" for n, a in sorted(attempts.items()) if a.end not in ("values", "rejected")},
        max((attempt.seconds for attempt in attempts.values()), default=0.0),
        max((attempt.mib for attempt in attempts.values()), default=0.0),
    )


class _Process:
    """Tries one file after another in a process of its own, which is replaced when it dies or takes too long."""

    def __init__(self) -> None:
        self._start()

    def attempt(self, path: str, deadline: float) -> Attempt:
        began = time.monotonic()
        try:
            self._connection.send(path)
            if self._connection.poll(deadline):
                return self._connection.recv()
            self._process.kill()
            end, why = "hung", f"for {deadline:.0f} s"
        except (EOFError, ConnectionError):
            self._process.join()
            end, why = "crashed", _exit(self._process.exitcode)
        seconds = time.monotonic() - began
        self.end()
        self._start()
        return Attempt(end, (why,), seconds)

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        if not self._connection.poll(LOADING) or self._connection.recv() != "ready":
            raise VoxportraitError("the process that tries the copies does not start: is a detector installed?")


def _serve(connection: Connection) -> None:
    """Load the detector, say `ready`, then answer each path with its Attempt."""
    import torch

    from pipelines.faces import FaceFinder
    from pipelines.recipe import Recipe

    torch.set_num_threads(1)
    finder = FaceFinder(Recipe(detector="fastmtcnn"))
    finder.load("cpu")
    at_start = _largest_mib()
    connection.send("ready")
    while True:
        path, began = connection.recv(), time.monotonic()
        end, why = _try(finder, path)
        connection.send(Attempt(end, why, time.monotonic() - began, _largest_mib() - at_start))


def _try(finder: Any, path: str) -> tuple[str, tuple[str, ...]]:
    """How one file ends: every part of a sample is asked for, as a job does."""
    from pipelines.reject import Reject
    from pipelines.sample import Sample

    sample, rejects = Sample(Clip("fuzz/a/b/c", path, "train"), finder.find), []
    try:
        for part in PARTS:
            try:
                getattr(sample, part)
            except Reject as reject:
                rejects.append(f"{reject.what}: {reject.reason}")
                if reject.what == "media":
                    break
    except Exception as error:  # noqa: BLE001 - this is what the search is for
        return "failed", (f"{type(error).__name__}: {error}",)
    return ("rejected" if rejects else "values"), tuple(rejects)


def _largest_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _exit(code: int | None) -> str:
    return signal.Signals(-code).name if code and code < 0 else f"exit code {code}"


def main(
    copies: Annotated[int, typer.Option(min=1, help="Damaged copies to try.")] = 500,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    clip: Annotated[Path | None, typer.Option(help="The mp4 to damage; a synthetic talking head as usual.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="How many try copies at once.")] = 2,
    deadline: Annotated[float, typer.Option(min=1, help="Seconds for one copy.")] = DEADLINE,
    as_json: Json = False,
) -> None:
    """Try damaged copies of an mp4; exit 1 if one hangs or raises what is no Reject.

    A copy that crashes its process is counted and named, and no failure: a job survives it and quarantines the clip.
    """
    with tempfile.TemporaryDirectory() as folder, bar("fuzz", "copies") as progress:
        report = fuzz(clip or _talking_head(Path(folder)), copies, seed, processes, deadline, progress)
    rows = [*report.ends.items(), ("unaccounted", report.unaccounted)]
    print_table(("copies", ""), [*rows, *((f"  {reason}", number) for reason, number in report.reasons.items())])
    say(f"the slowest took {report.slowest_seconds:.2f} s, the largest {report.largest_mib:.0f} MiB")
    if report.odd:
        print_table(("copy", "what happened"), report.odd.items())
    if as_json:
        print_json(asdict(report) | {"unaccounted": report.unaccounted})
    if not report.clean:
        raise typer.Exit(1)


def _talking_head(folder: Path) -> Path:
    from pipelines.population.corpus import synthesize

    synthesize(folder, speakers=1, clips=1, seed=0, test_speakers=0)
    return next(folder.glob("*/mp4/*/*/*.mp4"))


if __name__ == "__main__":
    typer.run(main)
