"""Work on the CPU in small pieces, each taken through all its steps by one core.

Torch's own threads meet after every step: where a core is busy with something else, as a reader is, all wait for it.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from threading import Barrier

import torch


def spread(pieces: Sequence[Callable[[], object]]) -> None:
    """Call every piece, on as many cores as torch may use here; raises what one raises, when none is at work."""
    cores, todo = torch.get_num_threads(), iter(pieces)
    if cores == 1:
        return _each(todo)
    inference = torch.is_inference_mode_enabled()

    def share() -> None:
        with torch.inference_mode(inference):
            _each(todo)

    shares = [_crew(cores, os.getpid()).submit(share) for _ in range(cores)]
    wait(shares)
    for done in shares:
        done.result()


def _each(pieces: Iterator[Callable[[], object]]) -> None:
    for piece in pieces:
        piece()


@cache
def _crew(cores: int, process: int) -> ThreadPoolExecutor:
    """Threads for which torch uses no threads of its own."""
    crew, together = ThreadPoolExecutor(cores, "cores"), Barrier(cores)

    def settle() -> None:
        torch.get_num_threads()
        torch.set_num_threads(1)
        together.wait()

    for settled in [crew.submit(settle) for _ in range(cores)]:
        settled.result()
    torch.set_num_threads(cores)
    return crew
