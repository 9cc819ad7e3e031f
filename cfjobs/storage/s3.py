"""The object store: its client, its credentials and endpoint, from the standard chain."""

import functools
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cfjobs.errors import InputError
from cfjobs.storage.uri import FileInfo, bucket_key, is_s3, redacted, refuse_credentials

if TYPE_CHECKING:
    from botocore.exceptions import ClientError
    from mypy_boto3_s3 import S3Client

_ABSENT = {"NoSuchKey", "404", "NotFound"}
_DENIED = {"AccessDenied", "403", "Forbidden"}


def options(uri: str) -> dict[str, str] | None:
    """Storage options for Polars and deltalake at this URI; none for a local path.

    Resolved by boto3 on every call, so that rotating credentials are fresh.
    """
    if not is_s3(uri):
        return None
    import boto3  # here: a local output does without it

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
    if there := endpoint():
        found["aws_endpoint_url"] = there
        if there.startswith("http://"):
            found["aws_allow_http"] = "true"
    return found


def endpoint() -> str | None:
    """The store's address; none for AWS. InputError where a user or a password is in it."""
    found = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if found:
        refuse_credentials(found, what=f"AWS_ENDPOINT_URL {redacted(found)}")
    return found


def client() -> "S3Client":
    """A client for the environment of this moment; clients are safe to share between threads."""
    session = (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_PROFILE",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
    )
    return _cached_client(endpoint(), tuple(os.environ.get(name) for name in session))


@functools.lru_cache(maxsize=8)
def _cached_client(endpoint: str | None, _environment: tuple[str | None, ...]) -> "S3Client":
    import boto3
    from botocore.config import Config

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
        config=Config(**settings),
    )


def is_missing(uri: str, error: "ClientError") -> bool:
    """Whether the store's answer means that there is no object at this URI.

    AWS answers 403 for a missing key to whoever may not list the bucket whatever the prefix, as under
    deploy/s3-policy.json; a listing of the key itself, which that policy allows, tells it from a denied one.
    """
    from botocore.exceptions import ClientError

    code = str(error.response.get("Error", {}).get("Code", ""))
    if code in _ABSENT:
        return True
    if code not in _DENIED or error.operation_name not in {"GetObject", "HeadObject"}:
        return False
    bucket, key = bucket_key(uri)
    try:
        page = client().list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
    except ClientError:
        return False
    return all(item["Key"] != key for item in page.get("Contents", ()))


def list_s3(uri: str, suffix: str) -> Iterator[FileInfo]:
    """The objects at or under a URI whose name ends in the suffix; hidden ones (`_x`, `.x`) left out."""
    bucket, key = bucket_key(uri)
    if key and suffix and key.endswith(suffix) and (file := _object(uri)):
        yield file
        return
    prefix = f"{key.rstrip('/')}/" if key else ""
    for file in _under(bucket, prefix):
        name = file.uri.removeprefix(f"s3://{bucket}/{prefix}")
        if name.endswith(suffix) and not any(part[:1] in {"_", "."} for part in name.split("/")):
            yield file


def walk_s3(uri: str) -> Iterator[FileInfo]:
    """The object of this very key, or else every object under it; an empty object may mark a folder."""
    bucket, key = bucket_key(uri)
    file = _object(uri) if key else None
    if file is not None and file.size:
        yield file
        return
    under = list(_under(bucket, f"{key}/" if key else ""))
    yield from under or filter(None, [file])


def any_under(uri: str) -> bool:
    """Whether a folder of the store holds anything; False too where it may not be listed."""
    from botocore.exceptions import ClientError

    bucket, key = bucket_key(uri)
    try:
        page = client().list_objects_v2(Bucket=bucket, Prefix=f"{key}/", MaxKeys=1)
    except ClientError as error:
        if str(error.response.get("Error", {}).get("Code", "")) in _DENIED:
            return False
        raise
    return bool(page.get("Contents"))


def _object(uri: str) -> FileInfo | None:
    """The object of exactly this key; None when there is none.

    It is the first of a listing that begins with the key. Who may read it but not list asks for the object.
    """
    from botocore.exceptions import ClientError

    bucket, key = bucket_key(uri)
    try:
        page = client().list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
    except ClientError as error:
        if str(error.response.get("Error", {}).get("Code", "")) not in _DENIED:
            raise
        head = client().head_object(Bucket=bucket, Key=key)
        return FileInfo(uri, head["ContentLength"], head["ETag"].strip('"'))
    found = [item for item in page.get("Contents", []) if item["Key"] == key]
    return FileInfo(uri, found[0]["Size"], found[0]["ETag"].strip('"')) if found else None


def _under(bucket: str, prefix: str) -> Iterator[FileInfo]:
    for page in client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            yield FileInfo(f"s3://{bucket}/{item['Key']}", item["Size"], item["ETag"].strip('"'))
