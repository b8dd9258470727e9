"""A folder as an object store that answers late: what S3 is to a reader, on this machine and without its noise.

    with serving("/data", latency=0.02) as server:
        Store.open(server.address("features"))

It can list, and read ranges: enough to read a store, not to write one. Keys are not checked.
"""

import asyncio
import os
import re
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from subprocess import PIPE, Popen
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "bench"
ASKED = "/requests"
"""Where the server says how many requests it has answered."""


@dataclass(frozen=True)
class Server:
    """Where the server is."""

    endpoint: str

    def address(self, path: str) -> str:
        """The address of a store in its folder."""
        return f"s3://{BUCKET}/{path}?endpoint={self.endpoint}&region=us-east-1&access_key_id=any&secret_access_key=any"

    def requests(self) -> int:
        """How many requests it has answered."""
        with urllib.request.urlopen(self.endpoint + ASKED) as answer:
            return int(answer.read())


@contextmanager
def serving(folder: str | Path, latency: float) -> Iterator[Server]:
    """A server in a process of its own, as long as the context. latency: seconds before each answer."""
    command = [sys.executable, "-m", "infra.bench.objects", str(folder), str(latency)]
    with Popen(command, stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdout
        yield Server(f"http://127.0.0.1:{int(process.stdout.readline())}")
        process.communicate()


@dataclass
class _Folder:
    """What is served. answered: how many requests were."""

    path: Path
    latency: float
    answered: int = 0

    async def serve(self) -> None:
        """Until standard input ends."""
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)
        os._exit(0)  # readers may still hold connections

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                status, named, body = await self._answer(head)
                lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in named.items()), "", ""]
                writer.write("\r\n".join(lines).encode())
                if not head.startswith("HEAD "):
                    writer.write(body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _answer(self, head: str) -> tuple[str, Mapping[str, object], bytes]:
        url = urlsplit(head.split(" ", 2)[1])
        if url.path == ASKED:
            body = str(self.answered).encode()
            return "200 OK", {"Content-Length": len(body)}, body
        self.answered += 1
        await asyncio.sleep(self.latency)
        query = parse_qs(url.query)
        if "list-type" in query:
            body = self._listing(query.get("prefix", [""])[0]).encode()
            return "200 OK", {"Content-Length": len(body)}, body
        file = self.path / unquote(url.path).removeprefix(f"/{BUCKET}/")
        if not file.is_file():
            body = b"<Error><Code>NoSuchKey</Code></Error>"
            return "404 Not Found", {"Content-Length": len(body)}, body
        return self._part(file, head)

    def _part(self, file: Path, head: str) -> tuple[str, Mapping[str, object], bytes]:
        """A file, or the range of it that is asked for."""
        is_head = head.startswith("HEAD ")
        asked = re.search(r"\r\nrange: *bytes=(\d*)-(\d*)", head, re.IGNORECASE)
        with file.open("rb", buffering=0) as opened:
            about = os.fstat(opened.fileno())
            size = about.st_size
            first, last = 0, size
            if asked and asked[1]:
                first, last = int(asked[1]), min(size, int(asked[2]) + 1) if asked[2] else size
            elif asked:
                first = max(0, size - int(asked[2]))
            body = b"" if is_head else os.pread(opened.fileno(), last - first, first)
        named = {
            "Content-Length": last - first,
            "Last-Modified": formatdate(about.st_mtime, usegmt=True),
            "ETag": f'"{about.st_mtime_ns:x}"',
        }
        if asked:
            return "206 Partial Content", {**named, "Content-Range": f"bytes {first}-{last - 1}/{size}"}, body
        return "200 OK", named, body

    def _listing(self, prefix: str) -> str:
        """The files of a folder whose names begin so, and the folders beside them."""
        above = self.path / prefix.rpartition("/")[0]
        files, folders = "", ""
        for path in sorted(above.iterdir()) if above.is_dir() else []:
            key = escape(str(path.relative_to(self.path)))
            if not key.startswith(prefix):
                continue
            if path.is_dir():
                folders += f"<CommonPrefixes><Prefix>{key}/</Prefix></CommonPrefixes>"
                continue
            about = path.stat()
            when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(about.st_mtime))
            files += f"<Contents><Key>{key}</Key><LastModified>{when}</LastModified><Size>{about.st_size}</Size>"
            files += f"<ETag>&quot;{about.st_mtime_ns:x}&quot;</ETag></Contents>"
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{files}{folders}</ListBucketResult>"


if __name__ == "__main__":
    asyncio.run(_Folder(Path(sys.argv[1]), float(sys.argv[2])).serve())
