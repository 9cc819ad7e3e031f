"""`net`: the small neural net over the two embeddings side by side.

    h      = dropout_p2(relu(W [dropout_p1(p_u, q_m)] + c)), once for each hidden width
    rating = low + (high - low) x sigmoid(w h + d)      over the range widened by a padding

Initialisation: embeddings uniform(-0.01, 0.01); layers as torch's Linear (Kaiming-uniform).
Source: `EmbeddingNet` of the fast.ai collaborative-filtering lesson (2018, lesson 5).
"""

import itertools
from typing import ClassVar

import torch
from torch import Tensor, nn

from cfjobs.models.network import MlpScores, Network, RatingRange, Recipe, Settings, embedding, linear


class EmbeddingNet(Network):
    recipe: ClassVar[Recipe] = Recipe(learning_rate=0.002, l2=0.05, steps=1560, batches_per_epoch=312)

    def __init__(self, *, n_users: int, n_movies: int, settings: Settings) -> None:
        super().__init__(n_users=n_users, n_movies=n_movies, settings=settings)
        lesson_range = (-0.01, 0.01)
        self.user = embedding(n_users, settings.n_factors, settings, lesson_range=lesson_range)
        self.movie = embedding(n_movies, settings.n_factors, settings, lesson_range=lesson_range)
        widths = (2 * settings.n_factors, *settings.hidden, 1)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.dropout_1, self.dropout_2 = (nn.Dropout(p) for p in settings.dropout)
        self.range = RatingRange(settings.y_range, settings.y_padding)

    def forward(self, user_idx: Tensor, movie_idx: Tensor) -> Tensor:
        x_BH = self.dropout_1(
            torch.cat([self.rows(self.user, user_idx), self.rows(self.movie, movie_idx)], dim=1)
        )
        *hidden, last = self._layers()
        for layer in hidden:
            x_BH = self.dropout_2(torch.relu(linear(layer, x_BH)))
        rating: Tensor = self.range(linear(last, x_BH).squeeze(1))
        return rating

    def scores(self) -> MlpScores:
        return MlpScores(
            user=self.user.weight[:-1].detach(),
            movie=self.movie.weight[:-1].detach(),
            layers=tuple((layer.weight.detach(), layer.bias.detach()) for layer in self._layers()),
        )

    def _layers(self) -> list[nn.Linear]:
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]


NETWORK = EmbeddingNet
