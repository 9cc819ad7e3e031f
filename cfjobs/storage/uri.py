"""URIs: a local path, `file://...`, or `s3://bucket/prefix`."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from cfjobs.errors import InputError


@dataclass(frozen=True)
class FileInfo:
    """A file as a listing shows it: its URI, bytes, and a tag that changes when its content does."""

    uri: str
    size: int
    etag: str


def is_s3(uri: str) -> bool:
    return uri.startswith("s3://")


def normal(uri: str | os.PathLike[str]) -> str:
    """The URI without a trailing slash; a local path made absolute.
    Other schemes and credentials in it raise InputError."""
    text = os.fspath(uri)
    refuse_credentials(text, what=redacted(text))
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


def refuse_credentials(uri: str, *, what: str) -> None:
    """Raises InputError for a URI with a user or a password in it: it would stand in every log,
    table and state."""
    _, separator, rest = uri.partition("://")
    host = rest.partition("/")[0]
    named = host.rpartition(":")[2]
    if separator and ("@" in host or (":" in host and not named.isdigit())):
        raise InputError(
            f"{what}: has credentials in it; take them out, revoke them, and set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or a profile"
        )


def redacted(uri: str) -> str:
    """The URI as it may be shown: without a user or a password."""
    scheme, separator, rest = uri.partition("://")
    host = rest.partition("/")[0]
    if not separator or not ({"@", ":"} & set(host)):
        return uri
    return f"{scheme}://***" + (f"@{rest.rpartition('@')[2]}" if "@" in rest else "")


def join(uri: str, *parts: str) -> str:
    return "/".join([uri.rstrip("/"), *parts])


def bucket_key(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key
