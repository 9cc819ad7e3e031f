"""Files by URI, on a disk or in an object store: read, written whole or not at all, listed,
and what goes wrong with them.

Credentials and endpoint come from the standard chain (environment, profile, instance role), once, and drive
boto3, Polars and deltalake alike.
"""

from cfjobs.storage.faults import explained
from cfjobs.storage.files import (
    RandomAccess,
    Tagged,
    check_writable,
    delete,
    delete_under,
    exists,
    is_folder,
    list_files,
    modified,
    new_file,
    read_bytes,
    read_range,
    read_tagged,
    read_tail,
    size,
    walk,
    write_bytes,
    write_if,
)
from cfjobs.storage.s3 import options
from cfjobs.storage.uri import FileInfo, check_holds_tables, is_s3, join, normal, split_version, within

__all__ = [
    "explained",
    "RandomAccess",
    "Tagged",
    "check_writable",
    "delete",
    "delete_under",
    "exists",
    "is_folder",
    "list_files",
    "modified",
    "new_file",
    "read_bytes",
    "read_range",
    "read_tagged",
    "read_tail",
    "size",
    "walk",
    "write_bytes",
    "write_if",
    "options",
    "FileInfo",
    "check_holds_tables",
    "is_s3",
    "join",
    "normal",
    "split_version",
    "within",
]
