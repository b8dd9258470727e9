"""Files from their official addresses: resumed, checked, whole or not there."""

import bz2
import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase

from featurestore.errors import VoxportraitError
from pipelines.weights.sums import sha256_now

Bytes = Callable[[int, int], None]
BLOCK, SECONDS = 1 << 16, 60


class Refused(VoxportraitError):
    """The server wants to know who asks, or an acceptance of its conditions."""


class Bearer(AuthBase):
    """A token for the host that is asked first; requests drops it where that host redirects to another one."""

    def __init__(self, token: str):
        self.token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request


def download(
    url: str,
    target: Path,
    sha256: str = "",
    token: str = "",
    progress: Bytes | None = None,
    checked: Callable[[str], None] = lambda sha256: None,
) -> str:
    """Bring `url` to `target`; returns the sha256. Only a whole file, with the given sha256 if any, gets that name.

    What an interrupted download brought stays in `<target>.part` and is continued, in this call as long as something
    comes, else in the next one. A `.bz2` address is unpacked. progress(bytes done, bytes in all, 0 if not known);
    checked(sha256) comes just before the file gets its name.
    Raises VoxportraitError with the reason in a few words.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _receive_all(url, file, part, token, progress)
            whole = _unpacked(part, url) if url.endswith(".bz2") else part
            found = sha256_now(whole)
            if sha256 in ("", found):
                checked(found)
                os.replace(whole, target)
            for rest in (part, whole, _validator(part)):
                rest.unlink(missing_ok=True)
    except BlockingIOError as error:
        raise VoxportraitError(f"{target} is being downloaded by another process") from error
    except OSError as error:
        raise VoxportraitError(f"{target} cannot be written: {_reason(error)}") from error
    if sha256 not in ("", found):
        raise VoxportraitError(f"{url} has another sha256 than expected ({found[:12]}..., not {sha256[:12]}...)")
    return found


def _reason(error: OSError) -> str:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "the disk is full" if full else error.strerror or str(error)


def _receive_all(url: str, file: BinaryIO, part: Path, token: str, progress: Bytes | None) -> None:
    """Continues after each interruption; gives up where nothing more comes."""
    reached = file.tell()
    with requests.Session() as session:
        session.auth = Bearer(token) if token else None
        while True:
            try:
                return _receive(session, url, file, part, progress)
            except requests.RequestException as error:
                if file.tell() <= reached:
                    host = urlsplit(url).hostname
                    kept = f"; the {reached:,} bytes that came are kept" if reached else ""
                    raise VoxportraitError(
                        f"{host} cannot be reached ({type(error).__name__}; is there a network?){kept}"
                    ) from error
                reached = file.tell()


def _receive(session: requests.Session, url: str, file: BinaryIO, part: Path, progress: Bytes | None) -> None:
    """One request, for what is not there yet if the server can tell that the file is still the same one."""
    have, validator = file.tell(), _validator(part)
    headers = {"Accept-Encoding": "identity"}
    if have and validator.is_file():
        headers |= {"Range": f"bytes={have}-", "If-Range": validator.read_text()}
    with session.get(url, headers=headers, stream=True, timeout=SECONDS) as answer:
        if answer.status_code == requests.codes.requested_range_not_satisfiable:
            _start_again(file, validator)
            return _receive(session, url, file, part, progress)
        _refuse(answer, url)
        if answer.status_code != requests.codes.partial_content:
            have = 0
            _start_again(file, validator)
            if (etag := answer.headers.get("ETag", "")).startswith('"'):
                validator.write_text(etag)
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else 0
        for block in answer.iter_content(BLOCK):
            have += file.write(block)
            if progress:
                progress(have, total)
    file.flush()


def _start_again(file: BinaryIO, validator: Path) -> None:
    file.seek(0)
    file.truncate()
    validator.unlink(missing_ok=True)


def _validator(part: Path) -> Path:
    """Holds the ETag of the file that `part` is the beginning of."""
    return part.with_name(f"{part.name}.etag")


def _unpacked(part: Path, url: str) -> Path:
    whole = part.with_name(f"{part.name}.unpacked")
    try:
        with bz2.open(part) as packed, whole.open("wb") as file:
            shutil.copyfileobj(packed, file, BLOCK)
    except (EOFError, OSError) as error:
        if getattr(error, "errno", None):
            raise
        whole.unlink()
        raise VoxportraitError(f"{url} gives no whole bz2 file") from error
    return whole


def _refuse(answer: requests.Response, url: str) -> None:
    code = answer.status_code
    if code in (401, 403):
        raise Refused(f"{urlsplit(url).hostname} refuses access ({code})")
    if code == 404:
        raise VoxportraitError(f"{url} is not there (404)")
    if not answer.ok:
        raise VoxportraitError(f"{urlsplit(url).hostname} answers {code} {answer.reason}; try again later")
    if answer.headers.get("Content-Type", "").startswith("text/html"):
        raise VoxportraitError(f"{url} gives a web page and not a file")
