"""What stages pass on: small immutable records that are JSON in storage."""

from typing import TypeVar

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """What a stage passes on: small, immutable, JSON."""

    model_config = ConfigDict(frozen=True)


AnyRecord = TypeVar("AnyRecord", bound=Record)
