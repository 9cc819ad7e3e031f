"""What storage libraries raise, as an InputError (act) or a StorageFault (retry)."""

import errno
import os
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
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise InputError(f"{uri}: there is no such file; check the path") from error
    except PermissionError as error:
        raise InputError(f"{uri}: permission denied; run as a user who may use it") from error
    except OSError as error:
        raise _of_os_error(uri, error) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] in {"boto3", "botocore", "s3transfer"}:
            raise _of_boto(uri, error) from error
        if type(error).__module__.startswith(
            ("deltalake", "_internal", "polars", "pyarrow")
        ) and _is_remote_fault(error):
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
    code = str(error.response.get("Error", {}).get("Code", "unknown"))
    bucket = uri.removeprefix("s3://").partition("/")[0]
    if code == "NoSuchBucket":
        return InputError(f"{uri}: there is no bucket {bucket!r}; create it or name another")
    if code in ABSENT:
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
            f"os error {errno.EDQUOT}",
            f"os error {errno.EFBIG}",
        )
    )


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
