"""A stored model taken by ranges of users: the movies' side once, the users' rows as they are wanted."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.overrides import TorchFunctionMode

from cfjobs import storage
from cfjobs.model_store.files import Model, load_model, user_rows
from cfjobs.models.network import Network
from cfjobs.storage.parquet import TableFile
from cfjobs.storage.tensors import TensorFile


class ModelSlices:
    """The model at a URI, on a device. without_users: the model of no user, for those it does not know."""

    def __init__(self, uri: str, *, device: torch.device) -> None:
        self._device = device
        self._users = TableFile(storage.join(uri, "users.parquet"), columns=["user_id", "n_ratings"])
        self.without_users = load_model(uri, users=range(0)).to(device)
        self._tensors = (
            TensorFile(storage.join(uri, "network.safetensors")) if self.without_users.stars else None
        )

    def of_users(self, users: range) -> Model:
        """The model with the rows of these users alone; row 0 is the first of them."""
        of_these = self._users.rows(users.start, users.stop)
        if self._tensors is None:
            return replace(self.without_users, users=of_these)
        known = self.without_users.network
        rows = user_rows(self._tensors, users, of_users=known.user_tensors())
        network = _same_network(known, n_users=len(users))
        network.load_state_dict(known.state_dict() | rows, assign=True)
        return replace(
            self.without_users,
            stars=network.to(self._device).eval(),
            users=of_these,
        )


def of_some_users(model: Model, rows: NDArray[np.int64]) -> Model:
    """The model with the rows of some users alone, in this order."""
    users = model.users[rows]
    if model.stars is None:
        return replace(model, users=users)
    network = _same_network(model.stars, n_users=len(rows))
    taken = torch.from_numpy(np.append(rows, model.stars.n_users)).to(
        model.device
    )  # the unknown user is last
    of_users = model.stars.user_tensors()
    state = model.stars.state_dict().items()
    network.load_state_dict(
        {key: tensor[taken] if key in of_users else tensor for key, tensor in state}, assign=True
    )
    return replace(model, stars=network.to(model.device).eval(), users=users)


def _same_network(network: Network, *, n_users: int) -> Network:
    """A network of the same kind for other users, without weights."""
    with torch.device("meta"), _WithoutValues():
        return type(network)(n_users=n_users, n_movies=network.n_movies, settings=network.settings)


class _WithoutValues(TorchFunctionMode):
    """Parameters are not filled: on `meta` they have no values, and asking for random ones makes PyTorch load
    its compiler, which takes seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)
