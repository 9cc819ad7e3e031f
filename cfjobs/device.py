"""The device that the configuration asks for."""

import os

import torch

from cfjobs.errors import InputError
from cfjobs.resources import processors


def resolve_device(name: str) -> torch.device:
    """The device of a configuration: `auto` takes a GPU when there is one, under torchrun its own.
    InputError for one that is absent.

    torch starts no more threads than the process may use processors: it knows of affinity and not of quotas.
    """
    if torch.get_num_threads() > (n := processors()):
        torch.set_num_threads(n)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and ":" not in name and (number := local_rank()) is not None:
        device = torch.device("cuda", number)
    if device.type == "cuda" and not (
        torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    ):
        raise InputError(
            f"configuration key device: got {name!r}, but this machine has {torch.cuda.device_count()} CUDA devices; use auto or cpu"
        )
    return device


def local_rank() -> int | None:
    """This process's number on its machine, and so that of its GPU; None outside torchrun."""
    return int(os.environ["LOCAL_RANK"]) if under_torchrun() else None


def under_torchrun() -> bool:
    """Whether torchrun started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ
