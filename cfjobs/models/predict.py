"""Predictions of a network for pairs of users and movies."""

import torch
from torch import Tensor

from cfjobs.models.network import Network


@torch.no_grad()
def predict(
    network: Network, user_idx: Tensor, movie_idx: Tensor, *, batch_size: int | None = None
) -> Tensor:
    """Predicted ratings [R], clipped to the rating range; a row number of -1 is an unknown id.

    batch_size: without it, what stays in a processor's cache or fills a GPU.
    """
    network.eval()
    batch_size = batch_size or (1 << 14 if user_idx.device.type == "cpu" else 1 << 18)
    low, high = network.settings.y_range
    batches = zip(user_idx.split(batch_size), movie_idx.split(batch_size), strict=True)
    parts = [network(users, movies).clamp(low, high).float() for users, movies in batches]
    return torch.cat(parts) if parts else torch.empty(0, device=user_idx.device)


@torch.no_grad()
def spread(
    network: Network, user_idx: Tensor, movie_idx: Tensor, *, batch_size: int = 1 << 14
) -> Tensor | None:
    """The standard deviation of what the members of an ensemble predict [R]; None for a network of one."""
    if network.n_members == 1:
        return None
    network.eval()
    low, high = network.settings.y_range
    parts = []
    for users, movies in zip(user_idx.split(batch_size), movie_idx.split(batch_size), strict=True):
        members = network.members(users, movies)
        if members is None:
            return None
        parts.append(members.clamp(low, high).double().std(1, correction=0).float())
    return torch.cat(parts) if parts else torch.empty(0, device=user_idx.device)
