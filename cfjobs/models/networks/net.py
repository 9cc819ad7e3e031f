"""`net`: the small neural net over the two embeddings side by side.

    h      = dropout_p2(relu(W [dropout_p1(p_u, q_m)] + c)), once for each hidden width
    rating = low + (high - low) x sigmoid(w h + d)      over the range widened by a padding

Side features stand beside the embeddings: (p_u, s_u, q_m, s_m),
where s sums the embeddings of a row's values.

Initialisation: embeddings uniform(-0.01, 0.01); layers as torch's Linear (Kaiming-uniform).
Source: `EmbeddingNet` of the fast.ai collaborative-filtering lesson (2018, lesson 5).
"""

import itertools
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from cfjobs.features import Features
from cfjobs.models.network import MlpScores, Network, RatingRange, embeddings, linear
from cfjobs.models.recipe import Recipe, Settings
from cfjobs.models.side_features import HIDDEN_MOVIES, MovieValues, UserValues


class EmbeddingNet(Network):
    recipe: ClassVar[Recipe] = Recipe(learning_rate=0.002, l2=0.05, steps=1560, batches_per_epoch=312)

    def __init__(self, *, n_users: int, n_movies: int, settings: Settings) -> None:
        super().__init__(n_users=n_users, n_movies=n_movies, settings=settings)
        self.user, self.movie = embeddings(
            n_users, n_movies, settings.n_factors, settings=settings, lesson_range=(-0.01, 0.01)
        )
        # What side features say of each row, filled in when training ends; absent without features.
        if settings.user_side:
            self.register_buffer("user_side", torch.zeros(n_users + 1, settings.user_side))
        if settings.movie_side:
            self.register_buffer("movie_side", torch.zeros(n_movies + 1, settings.movie_side))
        widths = (2 * settings.n_factors + settings.user_side + settings.movie_side, *settings.hidden, 1)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.dropout_1, self.dropout_2 = (nn.Dropout(p) for p in settings.dropout)
        self.range = RatingRange(settings.y_range, settings.y_padding)

    def forward(self, user_idx: Tensor, movie_idx: Tensor) -> Tensor:
        user_BH = [self.rows(self.user, user_idx), *self._side_rows("user_side", user_idx)]
        movie_BD = self.rows(self.movie, movie_idx)
        if self.training and "movie_side" in self.side:
            movie_BD = movie_BD * self.values()["movie_side"].shown(movie_idx)
        movie_BH = [movie_BD, *self._side_rows("movie_side", movie_idx)]
        x_BH = self.dropout_1(torch.cat(user_BH + movie_BH, dim=1))
        *hidden, last = self._layers()
        for layer in hidden:
            x_BH = self.dropout_2(torch.relu(linear(layer, x_BH)))
        rating: Tensor = self.range(linear(last, x_BH).squeeze(1))
        return rating

    def scores(self) -> MlpScores:
        return MlpScores(
            user=torch.cat([self.user.weight, *self._sides("user_side")], dim=1)[:-1].detach(),
            movie=torch.cat([self.movie.weight, *self._sides("movie_side")], dim=1)[:-1].detach(),
            layers=tuple((layer.weight.detach(), layer.bias.detach()) for layer in self._layers()),
        )

    def describe(self, *, users: Features | None = None, movies: Features | None = None) -> None:
        if users is not None:
            buffer = self.get_buffer("user_side")
            self.side["user_side"] = UserValues(users, buffer.shape[1], device=buffer.device)
        if movies is not None:
            buffer = self.get_buffer("movie_side")
            self.side["movie_side"] = MovieValues(
                movies, buffer.shape[1], hidden=HIDDEN_MOVIES, device=buffer.device
            )

    def user_tensors(self) -> set[str]:
        return super().user_tensors() | ({"user_side"} if self.settings.user_side else set())

    @torch.no_grad()
    def fold_side(self, name: str, sums: Tensor) -> None:
        self.get_buffer(name).copy_(sums)

    def _side_rows(self, name: str, idx: Tensor) -> list[Tensor]:
        """What side features say of these rows [B, S], if anything; in training,
        with the values as they are now."""
        sums = self._sides(name)
        if name in self.side:
            sums = [torch.cat([self.side[name](), table[-1:]]) for table in sums]
        found = [functional.embedding(torch.where(idx < 0, len(table) - 1, idx), table) for table in sums]
        return found if self.training else [rows.double() for rows in found]

    def _sides(self, name: str) -> list[Tensor]:
        """The sums of side features [N + 1, S], if there are any."""
        return [buffer for key, buffer in self.named_buffers(recurse=False) if key == name]

    def _layers(self) -> list[nn.Linear]:
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]


NETWORK = EmbeddingNet
