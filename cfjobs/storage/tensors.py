"""A safetensors file in storage, read by ranges of rows: only the bytes that are wanted.

Layout: 8 bytes length of the header, the header as JSON (dtype, shape and place of each tensor), the tensors.
Source: the safetensors format, https://huggingface.co/docs/safetensors.
"""

import json
import math
from typing import Any

import torch
from torch import Tensor

from cfjobs.errors import DamagedFile
from cfjobs.storage.faults import first_line
from cfjobs.storage.files import read_range, size

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def _checked(about: dict[str, Any]) -> int:
    """Where a tensor ends; ValueError when its place does not fit its shape."""
    start, stop = about["data_offsets"]
    if stop - start != math.prod(about["shape"]) * _DTYPES[about["dtype"]].itemsize or start < 0:
        raise ValueError("the place of a tensor does not fit its shape")
    return int(stop)


class TensorFile:
    """The tensors of one file. Raises DamagedFile for one that was cut off or whose header is wrong."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        n_bytes = int.from_bytes(read_range(uri, 0, 8), "little")
        there = size(uri)
        try:
            if 8 + n_bytes > there:
                raise ValueError(f"its header has {n_bytes:,} bytes, the file {there:,}")
            self._header: dict[str, Any] = json.loads(read_range(uri, 8, 8 + n_bytes))
            self._header.pop("__metadata__", None)
            ends = [_checked(about) for about in self._header.values()]
            if 8 + n_bytes + max(ends, default=0) != there:
                raise ValueError(f"it has {there:,} bytes, expected {8 + n_bytes + max(ends, default=0):,}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedFile(f"{uri}: is damaged ({first_line(error)})") from error
        self._begin = 8 + n_bytes

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(about["shape"]) for name, about in self._header.items()}

    def tensor(self, name: str) -> Tensor:
        """One tensor, whole."""
        shape = self.shapes[name]
        return self._read(name, 0, math.prod(shape)).reshape(shape)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """The rows start..stop-1 of one tensor."""
        shape = self.shapes[name]
        width = math.prod(shape[1:])
        return self._read(name, start * width, stop * width).reshape(stop - start, *shape[1:])

    def _read(self, name: str, start: int, stop: int) -> Tensor:
        about = self._header[name]
        dtype = _DTYPES[about["dtype"]]
        begin = self._begin + int(about["data_offsets"][0])
        data = read_range(self._uri, begin + start * dtype.itemsize, begin + stop * dtype.itemsize)
        return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)
