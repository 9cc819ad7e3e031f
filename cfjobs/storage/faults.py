"""What storage libraries raise, as an InputError (act) or a StorageFault (retry)."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cfjobs.errors import CfjobsError, InputError, StorageFault

if TYPE_CHECKING:
    from botocore.exceptions import ClientError


_DENIED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403", "Forbidden", "ExpiredToken"}
ABSENT = {"NoSuchBucket", "NoSuchKey", "404", "NotFound"}
CONFLICT = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turn what storage libraries raise about this URI into InputError (act) or StorageFault (retry)."""
    try:
        yield
    except CfjobsError:
        raise
    except Exception as error:
        library = type(error).__module__.partition(".")[0]
        if library in {"boto3", "botocore", "s3transfer"}:  # some are OSErrors too
            raise _of_boto(uri, error) from error
        remote = library in {"deltalake", "_internal", "polars", "pyarrow"} and _is_remote_fault(error)
        if remote or isinstance(error, OSError):
            raise _of_os_error(uri, error) from error
        raise


def _of_boto(uri: str, error: Exception) -> CfjobsError:
    from botocore import exceptions  # here: a local output does without it

    if isinstance(error, exceptions.ClientError):
        return _of_client_error(uri, error)
    if isinstance(error, (exceptions.NoCredentialsError, exceptions.PartialCredentialsError)):
        return InputError(
            f"{uri}: no AWS credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
        )
    return StorageFault(
        f"{uri}: the object store did not answer ({first_line(error)}); check AWS_ENDPOINT_URL and the network, then retry"
    )


def _of_client_error(uri: str, error: "ClientError") -> CfjobsError:
    from cfjobs.storage.s3 import is_missing

    code = str(error.response.get("Error", {}).get("Code", "unknown"))
    bucket = uri.removeprefix("s3://").partition("/")[0]
    if code == "NoSuchBucket":
        return InputError(f"{uri}: there is no bucket {bucket!r}; create it or name another")
    if is_missing(uri, error):
        return InputError(f"{uri}: there is no such object; check the URI")
    if code in _DENIED:
        return InputError(
            f"{uri}: access was denied ({code}); check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy"
        )
    return StorageFault(f"{uri}: the object store answered {code}; retry, and look at the store if it stays")


_PERMANENT = {
    errno.ENOENT: "there is no such file; check the path",
    errno.EISDIR: "is a folder, expected a file; check the path",
    errno.ENOTDIR: "a part of the path is a file, expected a folder; check the path",
    errno.EEXIST: "a part of the path is a file, expected a folder; check the path",
    errno.EACCES: "permission denied; run as a user who may use it",
    errno.EPERM: "permission denied; run as a user who may use it",
    errno.EROFS: "the file system is read-only; mount it for writing or name another place",
    errno.ENAMETOOLONG: "the name is too long for this file system; name a shorter path",
    errno.EINVAL: "this file system does not take such a name or request; name another place",
    errno.ELOOP: "its links go round in a circle; mend them",
    errno.ENOSPC: "the disk is full; free some space, then rerun: finished work is kept",
    errno.EDQUOT: "the disk quota is used up; free some space, then rerun: finished work is kept",
    errno.EFBIG: "the disk is full for a file of this size; free some space or raise the limit, then rerun: finished work is kept",
}
"""What no retry helps with: errors of the system, and what a user can do about them."""


def _number_of(error: Exception) -> int | None:
    """The system's number of an error; libraries in Rust write it into their text."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def _of_os_error(uri: str, error: Exception) -> CfjobsError:
    text, number = str(error), _number_of(error)
    if number in _PERMANENT:
        return InputError(f"{uri}: {_PERMANENT[number]} ({os.strerror(number)})")
    if any(
        code in text
        for code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "403 Forbidden")
    ):
        return InputError(
            f"{uri}: access was denied; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy"
        )
    if "NoSuchBucket" in text:
        return InputError(f"{uri}: there is no such bucket; create it or name another")
    return StorageFault(f"{uri}: reading or writing failed ({first_line(error)}); retry")


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
            *(f"os error {number})" for number in _PERMANENT),
        )
    )


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
