"""How a network is shaped, and how it is trained well, where the configuration leaves it open."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Settings:
    """The part of the configuration that shapes a network; stored beside its weights.

    user_side, movie_side: length of what side features add beside an embedding, in a network that does not
    add them to it; 0 without features.
    """

    n_factors: int
    init: Literal["uniform", "normal", "kaiming"]
    init_std: float
    hidden: tuple[int, ...]
    dropout: tuple[float, float]
    y_range: tuple[float, float]
    y_padding: float | Literal["learned"]
    ensemble: int
    max_raters: int
    user_side: int = 0
    movie_side: int = 0


@dataclass(frozen=True)
class Recipe:
    """How a network is trained well where the configuration leaves it open; the names are its keys.

    steps: optimiser steps in all, whatever the size of the data. batches_per_epoch: small data are cut into
    this many batches, so that a step sees enough of them; a batch has 256 to 65,536 ratings.
    """

    learning_rate: float
    l2: float
    steps: int
    batches_per_epoch: int
    hidden: tuple[int, ...] = (100,)
    dropout: tuple[float, float] = (0.3, 0.5)

    def batch_size(self, n_ratings: int) -> int:
        """Ratings a step: a power of two."""
        wanted = max(1, n_ratings) / self.batches_per_epoch
        return int(min(65_536, max(256, 2 ** round(math.log2(wanted)))))

    def epochs(self, n_ratings: int, *, batch_size: int) -> int:
        """Passes over the ratings that make about `steps` steps."""
        return max(1, round(self.steps * batch_size / max(1, n_ratings)))


@dataclass(frozen=True)
class BlockRecipe:
    """How a network is trained well a rating at a time (see `blocked_sgd_kernels.py`),
    where the configuration leaves it open.

    passes: over 100,000 ratings, fewer where there are more. rate: the learning rate of so many passes,
    higher for fewer.
    """

    passes: int
    rate: float
    l2: float

    def epochs(self, n_ratings: int) -> int:
        """Passes over the ratings."""
        wanted: float = self.passes * (100_000 / max(n_ratings, 50_000)) ** 0.2
        return max(4, round(wanted))

    def learning_rate(self, epochs: int) -> float:
        return self.rate * math.sqrt(self.passes / max(epochs, 4))
