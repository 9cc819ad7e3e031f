"""Files by URI, on a disk or in an object store, and what goes wrong with them.

A URI is a local path, `file://...`, or `s3://bucket/prefix`. Credentials and endpoint come from the
standard chain (environment, profile, instance role), once, and drive boto3, Polars and deltalake alike.
"""

import errno
import functools
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import boto3
import botocore.config
import botocore.exceptions

from cfjobs.errors import CfjobsError, InputError, StorageFault

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_DENIED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403", "Forbidden", "ExpiredToken"}
_ABSENT = {"NoSuchBucket", "NoSuchKey", "404", "NotFound"}
_CONFLICT = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}


@dataclass(frozen=True)
class FileInfo:
    """A file as a listing shows it: its URI, bytes, and a tag that changes when its content does."""

    uri: str
    size: int
    etag: str


def is_s3(uri: str) -> bool:
    return uri.startswith("s3://")


def normal(uri: str | os.PathLike[str]) -> str:
    """The URI without a trailing slash; a local path made absolute. Other schemes raise InputError."""
    text = os.fspath(uri)
    if is_s3(text):
        bucket = text.removeprefix("s3://").partition("/")[0]
        if not bucket:
            raise InputError(f"{text}: names no bucket, expected s3://bucket/prefix")
        return text.rstrip("/")
    scheme, separator, rest = text.partition("://")
    if separator and scheme != "file":
        raise InputError(
            f"{text}: scheme {scheme!r} is not supported; give a local path or s3://bucket/prefix"
        )
    if not text:
        raise InputError("an empty URI: give a local path or s3://bucket/prefix")
    return str(Path(rest if separator else text).expanduser().absolute())


def join(uri: str, *parts: str) -> str:
    return "/".join([uri.rstrip("/"), *parts])


def options(uri: str) -> dict[str, str] | None:
    """Storage options for Polars and deltalake at this URI; none for a local path.

    Resolved by boto3 on every call, so that rotating credentials are fresh.
    """
    if not is_s3(uri):
        return None
    session = boto3.Session()
    found: dict[str, str] = {"aws_region": session.region_name or "us-east-1"}
    credentials = session.get_credentials()
    if credentials is None:
        raise InputError(
            f"{uri}: no AWS credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
        )
    frozen = credentials.get_frozen_credentials()
    found |= {"aws_access_key_id": str(frozen.access_key), "aws_secret_access_key": str(frozen.secret_key)}
    if frozen.token:
        found["aws_session_token"] = frozen.token
    if endpoint := _endpoint():
        found["aws_endpoint_url"] = endpoint
        if endpoint.startswith("http://"):
            found["aws_allow_http"] = "true"
    return found


def list_files(uri: str, *, suffix: str = ".parquet") -> list[FileInfo]:
    """Files at or under a URI whose name ends in `suffix`, by name; hidden ones (`_x`, `.x`) left out."""
    with explained(uri):
        if is_s3(uri):
            return sorted(_list_s3(uri, suffix), key=lambda file: file.uri)
        root = Path(uri)
        if root.is_file():
            return [_local_info(root)]
        visible = (
            path
            for path in root.rglob(f"*{suffix}")
            if path.is_file() and not any(part[0] in "._" for part in path.relative_to(root).parts)
        )
        return [_local_info(path) for path in sorted(visible)]


def read_bytes(uri: str) -> bytes:
    """The content of one file; InputError when it is absent."""
    with explained(uri):
        if is_s3(uri):
            bucket, key = _bucket_key(uri)
            return _client().get_object(Bucket=bucket, Key=key)["Body"].read()
        return Path(uri).read_bytes()


def read_tail(uri: str, n_bytes: int) -> bytes:
    """The last bytes of one file, all of it when it is shorter; InputError when it is absent."""
    with explained(uri):
        if is_s3(uri):
            bucket, key = _bucket_key(uri)
            return _client().get_object(Bucket=bucket, Key=key, Range=f"bytes=-{n_bytes}")["Body"].read()
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
            bucket, key = _bucket_key(uri)
            return (
                _client().get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-{stop - 1}")["Body"].read()
            )
        with Path(uri).open("rb") as file:
            file.seek(start)
            return file.read(stop - start)


def size(uri: str) -> int:
    """The bytes of one file; InputError when it is absent."""
    with explained(uri):
        if is_s3(uri):
            bucket, key = _bucket_key(uri)
            return _client().head_object(Bucket=bucket, Key=key)["ContentLength"]
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
                bucket, key = _bucket_key(uri)
                _client().upload_file(name, bucket, key)
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
            bucket, key = _bucket_key(uri)
            _client().put_object(Bucket=bucket, Key=key, Body=data)
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
    """Write an object of a store if it still has this tag, or, for None, if there is none. Returns the new tag, or None when another write came first."""
    bucket, key = _bucket_key(uri)
    with explained(uri):
        try:
            if tag is None:
                answer = _client().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
            else:
                answer = _client().put_object(Bucket=bucket, Key=key, Body=data, IfMatch=tag)
        except botocore.exceptions.ClientError as error:
            if error.response["Error"]["Code"] in _CONFLICT | _ABSENT - {"NoSuchBucket"}:
                return None
            raise
        return answer["ETag"]


def read_tagged(uri: str) -> Tagged | None:
    """An object of a store with its tag; None when it is absent."""
    bucket, key = _bucket_key(uri)
    with explained(uri):
        try:
            answer = _client().get_object(Bucket=bucket, Key=key)
        except botocore.exceptions.ClientError as error:
            if error.response["Error"]["Code"] in _ABSENT - {"NoSuchBucket"}:
                return None
            raise
        return Tagged(answer["Body"].read(), answer["ETag"])


def modified(uri: str) -> datetime:
    """When a file was last written; now for one that is gone meanwhile."""
    with explained(uri):
        try:
            if not is_s3(uri):
                return datetime.fromtimestamp(Path(uri).stat().st_mtime, UTC)
            bucket, key = _bucket_key(uri)
            return _client().head_object(Bucket=bucket, Key=key)["LastModified"]
        except (FileNotFoundError, botocore.exceptions.ClientError) as error:
            if isinstance(error, FileNotFoundError) or error.response["Error"]["Code"] in _ABSENT:
                return datetime.now(UTC)
            raise


def exists(uri: str) -> bool:
    """Whether a file is at exactly this URI."""
    with explained(uri):
        if not is_s3(uri):
            return Path(uri).is_file()
        bucket, key = _bucket_key(uri)
        try:
            _client().head_object(Bucket=bucket, Key=key)
        except botocore.exceptions.ClientError as error:
            if error.response["Error"]["Code"] in {"404", "NoSuchKey", "NotFound"}:
                return False
            raise
        return True


def delete(uri: str) -> None:
    """Remove one file; an absent one is no error."""
    with explained(uri):
        if is_s3(uri):
            bucket, key = _bucket_key(uri)
            _client().delete_object(Bucket=bucket, Key=key)
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
            bucket, key = _bucket_key(uri)
            _client().list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
    folder = Path(uri)
    created = [] if is_s3(uri) else [path for path in (folder, *folder.parents) if not path.exists()]
    probe = join(uri, f"_probe-{uuid4().hex}")
    write_bytes(probe, b"cfjobs looks whether it may write here\n")
    delete(probe)
    for path in created:
        path.rmdir()


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turn what storage libraries raise about this URI into InputError (act) or StorageFault (retry)."""
    try:
        yield
    except CfjobsError:
        raise
    except botocore.exceptions.ClientError as error:
        raise _of_client_error(uri, error) from error
    except (botocore.exceptions.NoCredentialsError, botocore.exceptions.PartialCredentialsError) as error:
        raise InputError(
            f"{uri}: no AWS credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
        ) from error
    except (botocore.exceptions.BotoCoreError, boto3.exceptions.Boto3Error) as error:
        raise StorageFault(
            f"{uri}: the object store did not answer ({_first_line(error)}); check AWS_ENDPOINT_URL and the network, then retry"
        ) from error
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise InputError(f"{uri}: there is no such file; check the path") from error
    except PermissionError as error:
        raise InputError(f"{uri}: permission denied; run as a user who may use it") from error
    except OSError as error:
        raise _of_os_error(uri, error) from error
    except Exception as error:
        if type(error).__module__.startswith(
            ("deltalake", "_internal", "polars", "pyarrow")
        ) and _is_remote_fault(error):
            raise _of_os_error(uri, error) from error
        raise


def _of_client_error(uri: str, error: botocore.exceptions.ClientError) -> CfjobsError:
    code = str(error.response.get("Error", {}).get("Code", "unknown"))
    bucket = uri.removeprefix("s3://").partition("/")[0]
    if code == "NoSuchBucket":
        return InputError(f"{uri}: there is no bucket {bucket!r}; create it or name another")
    if code in _ABSENT:
        return InputError(f"{uri}: there is no such object; check the URI")
    if code in _DENIED:
        return InputError(
            f"{uri}: access was denied ({code}); check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy"
        )
    return StorageFault(f"{uri}: the object store answered {code}; retry, and look at the store if it stays")


def _of_os_error(uri: str, error: Exception) -> CfjobsError:
    text = str(error)
    full = {code for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) if f"(os error {code})" in text}
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        full.add(error.errno)
    if full:
        return StorageFault(
            f"{uri}: the disk is full ({os.strerror(full.pop())}); free some space, then rerun: finished work is kept"
        )
    if any(
        code in text
        for code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "403 Forbidden")
    ):
        return InputError(
            f"{uri}: access was denied; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy"
        )
    if "NoSuchBucket" in text:
        return InputError(f"{uri}: there is no such bucket; create it or name another")
    return StorageFault(f"{uri}: reading or writing failed ({_first_line(error)}); retry")


def _is_remote_fault(error: Exception) -> bool:
    text = str(error).lower()
    return any(
        word in text
        for word in (
            "generic s3",
            "generic localfilesystem",
            "object store",
            "error sending request",
            "commit failed",
            "no space left",
            f"os error {errno.EDQUOT}",
            f"os error {errno.EFBIG}",
        )
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]


def _bucket_key(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def _client() -> "S3Client":
    """A client for the environment of this moment; clients are safe to share between threads."""
    session = (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_PROFILE",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
    )
    return _cached_client(_endpoint(), tuple(os.environ.get(name) for name in session))


@functools.lru_cache(maxsize=8)
def _cached_client(endpoint: str | None, _environment: tuple[str | None, ...]) -> "S3Client":
    settings: dict[str, Any] = {
        "retries": {"mode": "standard", "max_attempts": 4},
        "connect_timeout": 5,
        "read_timeout": 60,
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    if endpoint:
        settings["s3"] = {"addressing_style": "path"}
    session = boto3.Session()
    return session.client(
        "s3",
        endpoint_url=endpoint,
        region_name=session.region_name or "us-east-1",
        config=botocore.config.Config(**settings),
    )


def _list_s3(uri: str, suffix: str) -> Iterator[FileInfo]:
    bucket, key = _bucket_key(uri)
    client = _client()
    prefix = f"{key.rstrip('/')}/" if key else ""
    if key and suffix and key.endswith(suffix):
        head = client.head_object(Bucket=bucket, Key=key)
        yield FileInfo(uri, head["ContentLength"], head["ETag"].strip('"'))
        return
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            name = item["Key"].removeprefix(prefix)
            if name.endswith(suffix) and not any(part[:1] in {"_", "."} for part in name.split("/")):
                yield FileInfo(f"s3://{bucket}/{item['Key']}", item["Size"], item["ETag"].strip('"'))


def _local_info(path: Path) -> FileInfo:
    stat = path.stat()
    return FileInfo(str(path), stat.st_size, f"{stat.st_mtime_ns:x}-{stat.st_size:x}")
