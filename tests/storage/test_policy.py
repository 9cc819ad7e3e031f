"""The documented policy is enough, where the store answers 403 for a key that is missing, as AWS does."""

import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import boto3
import pytest

from cfjobs import storage
from cfjobs.errors import InputError
from tests import faults
from tests.conftest import ROOT
from tests.policy import PolicyProxy

LISTING = "TellAMissingKeyFromADeniedOne"


@pytest.fixture
def documented(bucket: str) -> dict[str, Any]:
    """deploy/s3-policy.json for the test's bucket."""
    text = (ROOT / "deploy" / "s3-policy.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text.replace(":::lake", f":::{bucket.removeprefix('s3://')}"))
    return found


def test_a_first_night_and_its_retention_need_no_more_than_the_policy(
    bucket: str, documented: dict[str, Any], data_set: Path
) -> None:
    """In processes of their own: deltalake holds the interpreter while it waits for the store."""
    for name in ("ratings", "movies"):
        data = (data_set / f"{name}.parquet").read_bytes()
        boto3.client("s3").put_object(Bucket=bucket[5:], Key=f"ratings/{name}.parquet", Body=data)
    output = f"{bucket}/recommendations"
    with PolicyProxy(faults.address_of_store(), documented) as proxy:
        ratings: Any = f"{bucket}/ratings"
        night = faults.start(ratings, output, AWS_ENDPOINT_URL=proxy.endpoint)
        assert night.end() == 0, night.lines
        done = subprocess.run(
            [sys.executable, "-m", "cfjobs", "retain", "--output", output, "--nights", "1"],
            env=os.environ | {"AWS_ENDPOINT_URL": proxy.endpoint},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert proxy.missing, "no key was ever missing: the test tests nothing"
        assert not proxy.refused
    assert faults.rows(output, date(2026, 3, 2)).height > 0


def test_a_key_that_is_missing_and_one_that_is_denied_are_told_apart(
    bucket: str, documented: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the policy lets nobody know it by the answer alone."""
    documented["Statement"] = [s for s in documented["Statement"] if s["Sid"] != LISTING]
    boto3.client("s3").put_object(Bucket=bucket[5:], Key="elsewhere/x", Body=b"x")
    with PolicyProxy(faults.address_of_store(), documented) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        assert not storage.exists(f"{bucket}/recommendations/nothing")
        assert storage.read_tagged(f"{bucket}/recommendations/nothing") is None
        with pytest.raises(InputError, match="no such object"):
            storage.read_bytes(f"{bucket}/recommendations/nothing")
        for act in (storage.exists, storage.read_bytes, storage.read_tagged):
            with pytest.raises(InputError, match="access was denied"):
                act(f"{bucket}/elsewhere/x")
