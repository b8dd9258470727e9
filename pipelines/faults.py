"""Faults of the machine, told from faults of a clip: they pass when the worker is replaced, or when it tries again."""

import errno

OUT_OF_MEMORY, DEVICE = "out of memory", "device error"
CRASH, DEADLINE, WORKER_ERROR = "crash", "deadline", "worker error"
READ_ERROR, INPUT_OUTPUT = "read error", "input or output error"

_NO_ROOM = ("out of memory", "can't allocate memory", "Cannot allocate memory", "ALLOC_FAILED", "bad_alloc")
_BROKEN = ("CUDA error", "cuDNN error", "CUBLAS_STATUS", "NVML")


class Unfit(Exception):
    """A worker whose memory or device fails: another does what it was at. reason: a class that is counted."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason, self.message = reason, message

    def __reduce__(self):
        return type(self), (self.reason, self.message)


def fault_of(error: BaseException) -> str | None:
    """`OUT_OF_MEMORY`, `DEVICE` or None for any other error. By name and text: torch may not be loaded."""
    text = str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or _has(text, _NO_ROOM):
        return OUT_OF_MEMORY
    return DEVICE if type(error).__name__ == "AcceleratorError" or _has(text, _BROKEN) else None


def _has(text: str, signs: tuple[str, ...]) -> bool:
    return any(sign in text for sign in signs)


_FINAL_NUMBERS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS}
_FINAL = (
    "No space left",
    "Disk quota",
    "File too large",
    "Permission denied",
    "Read-only",
    "Access Denied",
    "Forbidden",
)


def is_final(error: OSError) -> bool:
    """Whether trying again is of no use: the disk is full or not to be written to."""
    return error.errno in _FINAL_NUMBERS or _has(str(error), _FINAL)


def is_full(error: BaseException) -> bool:
    """Whether a disk is full: no clip is to blame, and no other clip will fare better."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


_PASSING_NUMBERS = {
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED,
    errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EMFILE, errno.ENFILE,
}  # fmt: skip
_PASSING = ("NETWORK_CONNECTION", "SERVICE_UNAVAILABLE", "SLOW_DOWN", "REQUEST_TIMEOUT", "INTERNAL_FAILURE")


def is_passing(error: BaseException) -> bool:
    """Whether reading may go well a moment later: a disk, a network or an object store that stumbles."""
    return isinstance(error, OSError) and (error.errno in _PASSING_NUMBERS or _has(str(error), _PASSING))
