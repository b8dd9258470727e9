"""Where a store is: a folder, or an object-store address with its options, and how its tables and files are reached.

    Place("/data/features")
    Place("s3://bucket/features?region=eu-west-1&endpoint=http://127.0.0.1:5000")

Options stand behind the question mark: `endpoint`, `region`, `access_key_id`, `secret_access_key`, `session_token`.
Secrets are better given as the AWS_* environment variables, which both Lance and Arrow read, as they do AWS_REGION and
AWS_ENDPOINT_URL.
"""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import lance
import pyarrow as pa
from pyarrow import fs

from featurestore.errors import UsageError, choose

OPTIONS = ("endpoint", "region", "access_key_id", "secret_access_key", "session_token")


@dataclass(frozen=True, repr=False)
class Place:
    """The address of a store. Small, and travels between processes: a folder's address is absolute."""

    address: str

    def __post_init__(self):
        if self.address.startswith("file://"):
            object.__setattr__(self, "address", unquote(urlsplit(self.address).path))
        if not self.is_remote:
            object.__setattr__(self, "address", os.path.abspath(self.address))
        for name in self.options:
            choose("option of a store's address", name, OPTIONS)
        if self.options and not self._is_s3:
            raise UsageError(f"{self.shown}: options behind a question mark are for s3:// addresses")

    def __repr__(self) -> str:
        return f"Place({self.shown!r})"

    @property
    def root(self) -> str:
        """The address without its options."""
        return self.address.split("?", 1)[0].rstrip("/") if self.is_remote else self.address

    @property
    def is_remote(self) -> bool:
        return "://" in self.address

    @property
    def _is_s3(self) -> bool:
        return self.address.startswith("s3://")

    @property
    def options(self) -> dict[str, str]:
        """What stands behind the question mark."""
        query = self.address.split("?", 1)[1] if self.is_remote and "?" in self.address else ""
        return dict(parse_qsl(query.replace("+", "%2B")))

    @property
    def shown(self) -> str:
        """The address as it may be printed."""
        return self.root

    @property
    def _connection(self) -> dict[str, str]:
        """The options, and what the environment says of endpoint and region."""
        said = {
            "endpoint": os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
            "region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        }
        given = {name: value for name, value in said.items() if value} | self.options
        return {"region": "us-east-1"} | given if "endpoint" in given else given

    @property
    def storage_options(self) -> dict[str, str] | None:
        """The options as Lance takes them."""
        if not self._is_s3:
            return None
        given = {f"aws_{name}": value for name, value in self._connection.items()}
        if given.get("aws_endpoint", "").startswith("http://"):
            given["allow_http"] = "true"
        return given or None

    @cached_property
    def files(self) -> fs.FileSystem:
        """The file system under the store; its paths are relative to the root."""
        if not self.is_remote:
            return fs.SubTreeFileSystem(self.root, fs.LocalFileSystem())
        if not self._is_s3:
            return _remote(self.root)
        given = self._connection
        system = fs.S3FileSystem(
            access_key=given.get("access_key_id"),
            secret_key=given.get("secret_access_key"),
            session_token=given.get("session_token"),
            region=given.get("region"),
            endpoint_override=given.get("endpoint"),
        )
        return fs.SubTreeFileSystem(self.root.removeprefix("s3://"), system)

    def table_uri(self, name: str) -> str:
        return f"{self.root}/{name}.lance"

    def table(self, name: str, version: int | None = None, block_size: int | None = None) -> lance.LanceDataset:
        """A table at its newest version, or at another. block_size: bytes read together, if not Lance's own."""
        return lance.dataset(self.table_uri(name), version, block_size=block_size, storage_options=self.storage_options)

    def write_table(self, name: str, data: Any, **options: Any) -> lance.LanceDataset:
        """Make or append to a table: see `lance.write_dataset`."""
        return lance.write_dataset(data, self.table_uri(name), storage_options=self.storage_options, **options)

    def commit(self, name: str, operation: Any, read_version: int) -> lance.LanceDataset:
        """Commit an operation on a table as it was at `read_version`: see `lance.LanceDataset.commit`."""
        return lance.LanceDataset.commit(
            self.table_uri(name), operation, read_version=read_version, storage_options=self.storage_options
        )

    def write_file(self, path: str, data: bytes | pa.Buffer) -> None:
        """Write a file of the store, and the folder it is in; it has its name when it is whole and on the disk."""
        if self.is_remote:  # an object appears whole
            with self.files.open_output_stream(path) as stream:
                stream.write(data)
            return
        whole = Path(self.root, path)
        partial = whole.with_name(f".{whole.name}.partial")
        whole.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(whole)

    def list(self, folder: str, recursive: bool = False) -> list[fs.FileInfo]:
        """The files in a folder of the store, by their relative paths; none where there is no such folder."""
        found = self.files.get_file_info(fs.FileSelector(folder, allow_not_found=True, recursive=recursive))
        return [info for info in found if info.type == fs.FileType.File]


def _remote(uri: str) -> fs.FileSystem:
    try:
        system, path = fs.FileSystem.from_uri(uri)
    except (ValueError, NotImplementedError) as error:
        raise UsageError(f"{uri} is no place for a store: {error}") from error
    return fs.SubTreeFileSystem(path, system)
