"""`dot`: the dot product of a user and a movie embedding.

    rating(u, m) = <p_u, q_m>

Initialisation: uniform(0, 0.05), so that the first products are small and positive.
Source: `EmbeddingDot` of the fast.ai collaborative-filtering lesson (2018, lesson 5).
"""

from typing import ClassVar

from torch import Tensor

from cfjobs.models.network import DotScores, Network, embeddings
from cfjobs.models.recipe import Recipe, Settings


class EmbeddingDot(Network):
    recipe: ClassVar[Recipe] = Recipe(learning_rate=0.01, l2=0.02, steps=800, batches_per_epoch=40)

    def __init__(self, *, n_users: int, n_movies: int, settings: Settings) -> None:
        super().__init__(n_users=n_users, n_movies=n_movies, settings=settings)
        self.user, self.movie = embeddings(
            n_users, n_movies, settings.n_factors, settings=settings, lesson_range=(0.0, 0.05)
        )

    def forward(self, user_idx: Tensor, movie_idx: Tensor) -> Tensor:
        return self.dot(self.user, self.movie, user_idx, movie_idx)

    def scores(self) -> DotScores:
        user_UD, movie_MD = self.user.weight[:-1].detach(), self.movie.weight[:-1].detach()
        return DotScores(user_UD, movie_MD, movie_MD.new_zeros(self.n_movies))


NETWORK = EmbeddingDot
