"""Files by URI, on a disk or in an object store, and what goes wrong with them.

A URI is a local path, `file://...`, or `s3://bucket/prefix`. Credentials and endpoint come from the standard
chain (environment, profile, instance role), once, and drive boto3, Polars and deltalake alike.
"""

import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from cfjobs.errors import InputError
from cfjobs.storage.faults import ABSENT, CONFLICT, explained
from cfjobs.storage.s3 import any_under, client, is_missing, list_s3, walk_s3
from cfjobs.storage.uri import FileInfo, bucket_key, is_s3, join


def list_files(uri: str, *, suffix: str = ".parquet") -> list[FileInfo]:
    """Files at or under a URI whose name ends in `suffix`, by name; hidden ones (`_x`, `.x`) left out."""
    with explained(uri):
        if is_s3(uri):
            return sorted(list_s3(uri, suffix), key=lambda file: file.uri)
        root = Path(uri)
        if root.is_file():
            return [_local_info(root)]
        visible = (
            path
            for path in root.rglob(f"*{suffix}")
            if path.is_file() and not any(part[0] in "._" for part in path.relative_to(root).parts)
        )
        return [_local_info(path) for path in sorted(visible)]


def walk(uri: str) -> list[FileInfo]:
    """Every file at or under a URI, by name: hidden ones and the markers of folders too, links followed.

    Raises InputError for a folder that may not be read and for a link that leads nowhere.
    """
    with explained(uri):
        if is_s3(uri):
            return sorted(walk_s3(uri), key=lambda file: file.uri)
        root = Path(uri)
        if not root.is_dir():
            return [_local_info(root)] if root.exists() else []
        return [_local_info(path) for path in sorted(_local_files(root))]


def _local_files(root: Path) -> Iterator[Path]:
    """The files of a folder; one that links lead to a second time is read once."""

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}); run as a user who may use it")

    seen: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True, onerror=refuse):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        for name in files:
            path = Path(folder, name)
            if path.is_file():
                yield path
            elif path.is_symlink() and name[0] not in "._":
                raise InputError(
                    f"{path}: is a link to nothing ({os.readlink(path)}); mend it, or take it out"
                )


def is_folder(uri: str) -> bool:
    """Whether a URI is a folder with something in it; False too where the store may not be listed there."""
    with explained(uri):
        return any_under(uri) if is_s3(uri) else Path(uri).is_dir()


def read_bytes(uri: str) -> bytes:
    """The content of one file; InputError when it is absent."""
    with explained(uri):
        if is_s3(uri):
            bucket, key = bucket_key(uri)
            return client().get_object(Bucket=bucket, Key=key)["Body"].read()
        return Path(uri).read_bytes()


def read_tail(uri: str, n_bytes: int) -> bytes:
    """The last bytes of one file, all of it when it is shorter; InputError when it is absent."""
    with explained(uri):
        if is_s3(uri):
            bucket, key = bucket_key(uri)
            return client().get_object(Bucket=bucket, Key=key, Range=f"bytes=-{n_bytes}")["Body"].read()
        with Path(uri).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - n_bytes))
            return file.read()


def read_range(uri: str, start: int, stop: int) -> bytes:
    """The bytes start..stop-1 of one file; InputError when it is absent."""
    if start >= stop:
        return b""
    with explained(uri):
        if is_s3(uri):
            bucket, key = bucket_key(uri)
            return (
                client().get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-{stop - 1}")["Body"].read()
            )
        with Path(uri).open("rb") as file:
            file.seek(start)
            return file.read(stop - start)


def size(uri: str) -> int:
    """The bytes of one file; InputError when it is absent."""
    with explained(uri):
        if is_s3(uri):
            bucket, key = bucket_key(uri)
            return client().head_object(Bucket=bucket, Key=key)["ContentLength"]
        return Path(uri).stat().st_size


class RandomAccess(io.RawIOBase):
    """One file, read wherever it is wanted: in an object store by ranged requests."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        self._uri, self._size, self._at = uri, size(uri), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        data = read_range(self._uri, self._at, min(self._at + len(buffer), self._size))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


@contextmanager
def new_file(uri: str) -> Iterator[Path]:
    """A local path to write to; what was written there becomes the file at this URI, whole or not at all."""
    with explained(uri):
        target = None if is_s3(uri) else Path(uri)
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent if target else None, prefix="._", suffix=".part")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            if target is None:
                bucket, key = bucket_key(uri)
                client().upload_file(name, bucket, key)
            else:
                _settle(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def _settle(temporary: Path, target: Path) -> None:
    """Put a finished file in its place, on the disk before it has its name."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.chmod(0o644)
    temporary.replace(target)


def write_bytes(uri: str, data: bytes) -> None:
    """Write one file, whole or not at all."""
    with explained(uri):
        if is_s3(uri):
            bucket, key = bucket_key(uri)
            client().put_object(Bucket=bucket, Key=key, Body=data)
            return
        target = Path(uri)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix="._", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


@dataclass(frozen=True)
class Tagged:
    """The content of an object, and the tag that its next conditional write has to name."""

    data: bytes
    tag: str


def write_if(uri: str, data: bytes, *, tag: str | None) -> str | None:
    """Write an object of a store if it still has this tag, or, for None, if there is none. Returns the new
    tag, or None when another write came first."""
    from botocore.exceptions import ClientError

    bucket, key = bucket_key(uri)
    with explained(uri):
        try:
            if tag is None:
                answer = client().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
            else:
                answer = client().put_object(Bucket=bucket, Key=key, Body=data, IfMatch=tag)
        except ClientError as error:
            if error.response["Error"]["Code"] in CONFLICT | ABSENT - {"NoSuchBucket"}:
                return None
            raise
        return answer["ETag"]


def read_tagged(uri: str) -> Tagged | None:
    """An object of a store with its tag; None when it is absent."""
    from botocore.exceptions import ClientError

    bucket, key = bucket_key(uri)
    with explained(uri):
        try:
            answer = client().get_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if is_missing(uri, error):
                return None
            raise
        return Tagged(answer["Body"].read(), answer["ETag"])


def modified(uri: str) -> datetime:
    """When a file was last written; now for one that is gone meanwhile."""
    with explained(uri):
        if not is_s3(uri):
            try:
                return datetime.fromtimestamp(Path(uri).stat().st_mtime, UTC)
            except FileNotFoundError:
                return datetime.now(UTC)
        from botocore.exceptions import ClientError

        bucket, key = bucket_key(uri)
        try:
            return client().head_object(Bucket=bucket, Key=key)["LastModified"]
        except ClientError as error:
            if is_missing(uri, error):
                return datetime.now(UTC)
            raise


def exists(uri: str) -> bool:
    """Whether a file is at exactly this URI."""
    with explained(uri):
        if not is_s3(uri):
            return Path(uri).is_file()
        from botocore.exceptions import ClientError

        bucket, key = bucket_key(uri)
        try:
            client().head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if is_missing(uri, error):
                return False
            raise
        return True


def delete(uri: str) -> None:
    """Remove one file; an absent one is no error."""
    with explained(uri):
        if is_s3(uri):
            bucket, key = bucket_key(uri)
            client().delete_object(Bucket=bucket, Key=key)
        else:
            Path(uri).unlink(missing_ok=True)


def delete_under(uri: str) -> None:
    """Remove every file under a URI, what a killed writer left half-written included."""
    for file in list_files(uri, suffix=""):
        delete(file.uri)
    if not is_s3(uri) and Path(uri).is_dir():
        with explained(uri):
            shutil.rmtree(uri)


def check_writable(uri: str) -> None:
    """Write and remove a small file under a URI, so that a wrong key fails now and not after the training."""
    if is_s3(uri):
        with explained(uri):  # some stores make a missing bucket on the first write: a typing error must not
            bucket, key = bucket_key(uri)
            client().list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
    folder = Path(uri)
    with explained(uri):
        created = [] if is_s3(uri) else [path for path in (folder, *folder.parents) if not path.exists()]
    probe = join(uri, f"_probe-{uuid4().hex}")
    write_bytes(probe, b"cfjobs looks whether it may write here\n")
    delete(probe)
    for path in created:
        path.rmdir()


def _local_info(path: Path) -> FileInfo:
    stat = path.stat()
    return FileInfo(str(path), stat.st_size, f"{stat.st_mtime_ns:x}-{stat.st_size:x}")
