"""URIs: a local path, `file://...`, or `s3://bucket/prefix` (`s3a://` and `s3n://` are taken as that)."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from cfjobs.errors import InputError


@dataclass(frozen=True)
class FileInfo:
    """A file as a listing shows it: its URI, bytes, and a tag that changes when its content does.

    table: for a file that a Delta or Iceberg table names, that table's URI with its version.
    """

    uri: str
    size: int
    etag: str
    table: str = ""

    def as_record(self) -> dict[str, str | int]:
        """The fields as JSON has them; without a table where there is none."""
        return {name: value for name, value in vars(self).items() if name != "table" or value}


def is_s3(uri: str) -> bool:
    return uri.startswith("s3://")


def normal(uri: str | os.PathLike[str]) -> str:
    """The URI without a trailing slash; a local path made absolute.

    Raises InputError for other schemes, credentials in it, and names that no library reads alike.
    """
    text = re.sub(r"^s3[an]://", "s3://", os.fspath(uri))
    refuse_credentials(text, what=redacted(text))
    if not text.strip():
        raise InputError("an empty URI: give a local path or s3://bucket/prefix")
    if not text.isprintable():
        raise InputError(f"{text!r}: has a control character in it; give the folder or file another name")
    if wrong := re.match(r"(?i)(s3[an]?|gs|abfss?|az|https?|file):(?!//)", text) or re.match("S3://", text):
        raise InputError(
            f"{text}: {wrong[0]!r} is neither a local path nor s3://bucket/prefix; write two slashes, in small letters (./{text} for a folder of that name)"
        )
    if is_s3(text):
        bucket = text.removeprefix("s3://").partition("/")[0]
        if not bucket:
            raise InputError(f"{text}: names no bucket, expected s3://bucket/prefix")
        text = text.rstrip("/")
        if {"", ".", ".."} & set(text.removeprefix("s3://").split("/")):
            raise InputError(
                f"{text}: has an empty name, '.' or '..' between its slashes; write the key itself"
            )
        return text
    scheme, separator, rest = text.partition("://")
    if separator and scheme != "file":
        raise InputError(
            f"{text}: scheme {scheme!r} is not supported; give a local path or s3://bucket/prefix"
        )
    if separator and not rest.startswith("/"):
        raise InputError(f"{text}: names a host, expected three slashes: file:///path")
    return str(Path(unquote(rest) if separator else text).expanduser().absolute())


_AT = re.compile(r"/*\?(version|at)=([^/?]+)$")


def split_version(uri: str) -> tuple[str, str, str]:
    """A table's URI, and what of it is asked for: ("version", "3"), ("at", "2026-03-01"), or ("", "")."""
    found = _AT.search(uri)
    return (uri[: found.start()], found[1], found[2]) if found else (uri, "", "")


_OF_TABLES = re.compile(r"[\w.~!$&'()*+,;:@=-]*", re.ASCII)
_LIKE_A_PARTITION = re.compile(r"[^=]*=[^=]*")


def check_holds_tables(uri: str, *, what: str) -> None:
    """InputError for a place in which Delta tables could be written, but not read by every engine.

    Delta's libraries quote other characters each in its own way, in an object store even onto another key,
    and Polars takes a folder `env=prod` above a table for a column of it.
    """
    for name in uri.removeprefix("s3://").split("/"):
        if not _OF_TABLES.fullmatch(name):
            odd = sorted({c for c in name if not _OF_TABLES.fullmatch(c)})
            raise InputError(
                f"{what} {uri}: {name!r} has {' '.join(map(repr, odd))} in it, and readers of Delta tables disagree about such names; "
                "use ASCII letters, digits and .-_ in the whole path"
            )
        if _LIKE_A_PARTITION.fullmatch(name):
            raise InputError(
                f"{what} {uri}: readers of Delta tables take the folder {name!r} for a column of the tables; name it without '='"
            )


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
