"""Where a store is: a folder, or an object-store address with its options, and how its tables and files are reached.

    Place("/data/features")
    Place("s3://bucket/features?region=eu-west-1&endpoint=http://127.0.0.1:5000")

Options stand behind the question mark: `endpoint`, `region`, `access_key_id`, `secret_access_key`, `session_token`.
Secrets are better given as the AWS_* environment variables, which both Lance and Arrow read.
"""

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl

import lance
from pyarrow import fs

from featurestore.errors import UsageError, choose

OPTIONS = ("endpoint", "region", "access_key_id", "secret_access_key", "session_token")


@dataclass(frozen=True)
class Place:
    """The address of a store. Small, and travels between processes."""

    address: str

    def __post_init__(self):
        for name in self.options:
            choose("option of a store's address", name, OPTIONS)
        if self.options and not self.root.startswith("s3://"):
            raise UsageError(f"{self.shown}: options behind a question mark are for s3:// addresses")

    @property
    def root(self) -> str:
        """The address without its options."""
        return (self.address.split("?", 1)[0] if self.is_remote else self.address).rstrip("/")

    @property
    def is_remote(self) -> bool:
        return "://" in self.address

    @property
    def options(self) -> dict[str, str]:
        return dict(parse_qsl(self.address.split("?", 1)[1])) if self.is_remote and "?" in self.address else {}

    @property
    def shown(self) -> str:
        """The address as it may be printed."""
        return self.root

    @property
    def storage_options(self) -> dict[str, str] | None:
        """The options as Lance takes them."""
        given = {f"aws_{name}": value for name, value in self.options.items()}
        if (given.get("aws_endpoint") or os.environ.get("AWS_ENDPOINT_URL", "")).startswith("http://"):
            given["allow_http"] = "true"
        return given or None

    @cached_property
    def files(self) -> fs.FileSystem:
        """The file system under the store; its paths are relative to the root."""
        if not self.is_remote:
            return fs.SubTreeFileSystem(self.root, fs.LocalFileSystem())
        options = self.options
        if not options:
            return _remote(self.root)
        system = fs.S3FileSystem(
            access_key=options.get("access_key_id"),
            secret_key=options.get("secret_access_key"),
            session_token=options.get("session_token"),
            region=options.get("region"),
            endpoint_override=options.get("endpoint") or os.environ.get("AWS_ENDPOINT_URL"),
        )
        return fs.SubTreeFileSystem(self.root.removeprefix("s3://"), system)

    def table_uri(self, name: str) -> str:
        return f"{self.root}/{name}.lance"

    def table(self, name: str, version: int | None = None) -> lance.LanceDataset:
        """A table at its newest version, or at another."""
        return lance.dataset(self.table_uri(name), version, storage_options=self.storage_options)

    def write_table(self, name: str, data: Any, **options: Any) -> lance.LanceDataset:
        """Make or append to a table: see `lance.write_dataset`."""
        return lance.write_dataset(data, self.table_uri(name), storage_options=self.storage_options, **options)

    def commit(self, name: str, operation: Any, read_version: int) -> lance.LanceDataset:
        """Commit an operation on a table as it was at `read_version`: see `lance.LanceDataset.commit`."""
        return lance.LanceDataset.commit(
            self.table_uri(name), operation, read_version=read_version, storage_options=self.storage_options
        )

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
