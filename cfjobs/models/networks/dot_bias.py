"""`dot_bias`: the dot product with a bias for each user and movie, through a sigmoid over the rating range.

    rating(u, m) = low + (high - low) x sigmoid(<p_u, q_m> + b_u + b_m)

Initialisation: embeddings and biases uniform(-0.01, 0.01).
Source: `EmbeddingDotBias` of the fast.ai collaborative-filtering lesson (2018, lesson 5).
"""

from functools import partial
from typing import ClassVar

from torch import Tensor

from cfjobs.models.network import DotScores, Network, RatingRange, embeddings
from cfjobs.models.recipe import Recipe, Settings


class EmbeddingDotBias(Network):
    recipe: ClassVar[Recipe] = Recipe(learning_rate=0.01, l2=0.16, steps=800, batches_per_epoch=40)

    def __init__(self, *, n_users: int, n_movies: int, settings: Settings) -> None:
        super().__init__(n_users=n_users, n_movies=n_movies, settings=settings)
        tables = partial(embeddings, n_users, n_movies, settings=settings, lesson_range=(-0.01, 0.01))
        self.user, self.movie = tables(settings.n_factors)
        self.user_bias, self.movie_bias = tables(1)
        self.range = RatingRange(settings.y_range, settings.y_padding)

    def forward(self, user_idx: Tensor, movie_idx: Tensor) -> Tensor:
        dot_B = self.dot(self.user, self.movie, user_idx, movie_idx)
        bias_B = (self.rows(self.user_bias, user_idx) + self.rows(self.movie_bias, movie_idx)).squeeze(1)
        rating: Tensor = self.range(dot_B + bias_B)
        return rating

    def scores(self) -> DotScores:
        # A user's own bias moves the whole list alike, and the sigmoid keeps the order: neither is needed.
        return DotScores(
            self.user.weight[:-1].detach(),
            self.movie.weight[:-1].detach(),
            self.movie_bias.weight[:-1, 0].detach(),
        )


NETWORK = EmbeddingDotBias
