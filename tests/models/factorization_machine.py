"""A network outside the package: a factorization machine of users and movies, under names of its own.

    rating(u, m) = w + a_u + c_m + <v_u, v_m>

Source: Rendle, "Factorization Machines" (2010).
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from cfjobs.models.network import DotScores, MovieTable, Network, UserTable, embedding
from cfjobs.models.recipe import Recipe, Settings


class FactorizationMachine(Network):
    recipe: ClassVar[Recipe] = Recipe(learning_rate=0.01, l2=0.02, steps=800, batches_per_epoch=40)

    def __init__(self, *, n_users: int, n_movies: int, settings: Settings) -> None:
        super().__init__(n_users=n_users, n_movies=n_movies, settings=settings)
        width, start = settings.n_factors + 1, (-0.05, 0.05)  # the last column is the linear weight
        self.viewers = embedding(UserTable, n_users, width, settings=settings, lesson_range=start)
        self.films = embedding(MovieTable, n_movies, width, settings=settings, lesson_range=start)
        self.mean = nn.Parameter(torch.tensor(sum(settings.y_range) / 2))

    def forward(self, user_idx: Tensor, movie_idx: Tensor) -> Tensor:
        viewer_BW, film_BW = self.rows(self.viewers, user_idx), self.rows(self.films, movie_idx)
        dot_B = (viewer_BW[:, :-1] * film_BW[:, :-1]).sum(dim=1)
        return self.mean + viewer_BW[:, -1] + film_BW[:, -1] + dot_B

    def scores(self) -> DotScores:
        viewer_UW, film_MW = (table.weight[:-1].detach() for table in (self.viewers, self.films))
        return DotScores(
            viewer_UW[:, :-1].contiguous(), film_MW[:, :-1].contiguous(), film_MW[:, -1].contiguous()
        )


NETWORK = FactorizationMachine
