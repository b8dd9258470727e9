"""Named places where the fault drill kills the process, as the failpoints of TiKV and FreeBSD. Idle without the drill.

The environment variable VOXPORTRAIT_FAILPOINTS names a folder; a file `<point>` in it is the order to die there. Who
removes the file dies, so an order is obeyed once.
"""

import os
import signal
from typing import Literal

Point = Literal["column file", "before commit", "after commit", "journal", "forget", "compaction"]


def reach(point: Point) -> None:
    """Die here if the drill says so."""
    folder = os.environ.get("VOXPORTRAIT_FAILPOINTS")
    if not folder:
        return
    try:
        os.unlink(os.path.join(folder, point))
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
