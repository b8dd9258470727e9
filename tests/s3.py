"""An S3-compatible server on this machine: moto's, in a process of its own that ends with the test's."""

import logging
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

KEY, SECRET = "somebody", "a-secret-that-nobody-prints"
BUCKET = "voices"

os.environ["AWS_EC2_METADATA_DISABLED"] = "true"  # no client asks the network who it is


@dataclass(frozen=True)
class Server:
    """Where the server is. Its bucket is there and empty."""

    port: int

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def address(self, path: str) -> str:
        """The address of a store in the bucket, with everything that is needed to reach it."""
        options = f"endpoint={self.endpoint}&region=us-east-1&access_key_id={KEY}&secret_access_key={SECRET}"
        return f"s3://{BUCKET}/{path}?{options}"

    @property
    def environment(self) -> dict[str, str]:
        """The same as environment variables."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }

    def put(self, path: str, data: bytes, headers: Mapping[str, str] = {}) -> int:
        """PUT an object, or with an empty path the bucket; the HTTP status."""
        request = urllib.request.Request(
            f"{self.endpoint}/{BUCKET}/{path}", data, {"Authorization": f"AWS {KEY}:x", **headers}, method="PUT"
        )
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code


@contextmanager
def serving() -> Iterator[Server]:
    """A server that lives as long as the context."""
    with subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        server = Server(int(process.stdout.readline()))
        server.put("", b"")
        yield server
        process.communicate()


def _serve() -> None:
    from moto.s3.responses import S3Response
    from moto.server import ThreadedMotoServer

    lock = threading.RLock()  # moto looks for an object and writes it in two steps: conditional writes could meet

    def one_at_a_time(method):
        def locked(*arguments, **options):
            with lock:
                return method(*arguments, **options)

        return locked

    for name in ("_key_response_put", "_key_response_post", "_key_response_delete"):
        setattr(S3Response, name, one_at_a_time(getattr(S3Response, name)))
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    print(server.get_host_and_port()[1], flush=True)
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    _serve()
