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
