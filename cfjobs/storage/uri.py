"""URIs: a local path, `file://...`, or `s3://bucket/prefix`."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cfjobs.errors import InputError

if TYPE_CHECKING:
    pass


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
    if not text.strip():
        raise InputError("an empty URI: give a local path or s3://bucket/prefix")
    if wrong := re.match(r"(?i)(s3[an]?|gs|abfss?|az|https?|file):(?!//)", text) or re.match("S3://", text):
        raise InputError(
            f"{text}: {wrong[0]!r} is neither a local path nor s3://bucket/prefix; write two slashes, in small letters (./{text} for a folder of that name)"
        )
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
    return str(Path(rest if separator else text).expanduser().absolute())


def within(uri: str, folder: str) -> bool:
    """Whether a URI is a folder, or lies below it; both as `normal` gives them, links followed on a disk."""
    if not is_s3(uri) and not is_s3(folder):
        uri, folder = (os.path.realpath(path) for path in (uri, folder))
    return f"{uri}/".startswith(f"{folder.rstrip('/')}/")


def join(uri: str, *parts: str) -> str:
    return "/".join([uri.rstrip("/"), *parts])


def bucket_key(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key
