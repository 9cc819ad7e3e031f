"""`dot_raters`: the dot product with biases, whose movie vector also knows who rated the movie. The default.

    rating(u, m) = low + (high - low) x sigmoid(<p_u, v_m> + b_u + c_m)
    v_m = q_m + |R(m)|^-1/2 x sum of x_w,    c_m = a_m + |R(m)|^-1/2 x sum of y_w,    over w in R(m), w != u

R(m) are the users who rated m in training, a random few of them where there are many. Leaving u out matters:
in training u did rate m, tonight it did not. After the fit the sums are folded into the movie rows, and what
remains is `dot_bias`. `ensemble` members start apart and are trained side by side; their logits are averaged,
which is one longer dot product.

Initialisation: embeddings normal(0, 0.1), so that members end apart; x, y ten times smaller; biases zero.
Source: `EmbeddingDotBias` of the fast.ai lesson; Koren, SVD++ (2008), where the sum is on the user's side;
Rendle, Zhang and Koren, "On the difficulty of evaluating baselines" (2019), who turn it to the movie's.
"""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from cfjobs.models.network import BlockRows, DotScores, MovieTable, Network, RatingRange, Table, UserTable
from cfjobs.models.pair_dot import pair_logits
from cfjobs.models.raters import Raters
from cfjobs.models.recipe import BlockRecipe, Recipe, Settings
from cfjobs.models.side_features import sparse, sparse_product

_START = 0.1
_MOST_PAIRS = (
    4_000_000  # in the sums, which every step goes through: a catalogue of many movies has fewer raters each
)


class DotRaters(Network):
    recipe: ClassVar[Recipe] = Recipe(learning_rate=0.01, l2=0.2, steps=500, batches_per_epoch=40)
    block_recipe: ClassVar[BlockRecipe | None] = BlockRecipe(passes=12, rate=0.05, l2=0.2)
    forgotten: ClassVar[tuple[str, ...]] = ("user_as_rater.weight",)

    def __init__(self, *, n_users: int, n_movies: int, settings: Settings) -> None:
        super().__init__(n_users=n_users, n_movies=n_movies, settings=settings)
        self.n_members = settings.ensemble
        self.user = self._table(UserTable, n_users)
        self.movie = self._table(MovieTable, n_movies)
        self.offset = nn.Parameter(torch.zeros(()))
        self.range = RatingRange(settings.y_range, settings.y_padding)
        self._sums: _Sums | None = None
        self.raters: Raters | None = None

    def setup(self, user_idx: Tensor, movie_idx: Tensor) -> None:
        """Learn who rated what, and make the raters' embedding x, y."""
        self.raters = Raters.of(
            user_idx.cpu().numpy(),
            movie_idx.cpu().numpy(),
            n_movies=self.n_movies,
            at_most=min(self.settings.max_raters, max(8, _MOST_PAIRS // self.n_movies)),
            order=torch.randperm(self.n_users).numpy(),
        )
        self.user_as_rater = self._table(UserTable, self.n_users, scale=0.1 * _START).to(user_idx.device)

    @torch.no_grad()
    def fold(self) -> None:
        """Fold the sums into the movie rows and forget the raters."""
        self.unfinished = {
            "movie.weight": self.movie.weight.detach().clone(),
            "user_as_rater.weight": self.user_as_rater.weight.detach(),
        }
        self.movie.weight[:-1] += self._final_sums()
        del self.user_as_rater
        self.raters = self._sums = None

    def forward(self, user_idx: Tensor, movie_idx: Tensor) -> Tensor:
        """In training one prediction for each member [B, K]; otherwise that of their mean logit [B]."""
        more: Tensor | None = None
        if self.raters is None and self.copies_no_rows(self.user, self.movie):
            members = self._members(self.user.weight), self._members(self.movie.weight)
            logit_BK = pair_logits(*members, user_idx, movie_idx, n_factors=self.settings.n_factors)
            found: Tensor = self.range(logit_BK.mean(1) + self.offset)
            return found
        if self.raters is not None:
            sums = self.sums().sums(self.user_as_rater.weight)
            known = torch.where(movie_idx < 0, 0, movie_idx)
            more = nn.functional.embedding(known, sums) * (movie_idx >= 0)[:, None]
            if self.training:
                own = self.sums().own(user_idx, movie_idx)[:, None]
                more = more - own * self.rows(self.user_as_rater, user_idx)
        user_BW = self.rows(self.user, user_idx)
        movie_BW = self.rows(self.movie, movie_idx, more=more)
        user_BKD, movie_BKD = self._members(user_BW), self._members(movie_BW)
        logit_BK = (user_BKD[..., :-1] * movie_BKD[..., :-1]).sum(2) + user_BKD[..., -1] + movie_BKD[..., -1]
        rating: Tensor = self.range((logit_BK if self.training else logit_BK.mean(1)) + self.offset)
        return rating

    @torch.no_grad()
    def members(self, user_idx: Tensor, movie_idx: Tensor) -> Tensor | None:
        """After the fit: what each member alone predicts [B, K]."""
        if self.n_members == 1:
            return None
        assert self.raters is None, "the raters are not folded into the movies yet"
        user_BKD, movie_BKD = (
            self._members(self.rows(table, idx))
            for table, idx in ((self.user, user_idx), (self.movie, movie_idx))
        )
        logit_BK = (user_BKD[..., :-1] * movie_BKD[..., :-1]).sum(2) + user_BKD[..., -1] + movie_BKD[..., -1]
        found: Tensor = self.range(logit_BK + self.offset)
        return found

    def sums(self) -> "_Sums":
        """The sums over the raters, as training by batches needs them; made on first use."""
        assert self.raters is not None, "training has not begun"
        if self._sums is None:
            self._sums = _Sums(
                self.raters, n_users=self.n_users, n_movies=self.n_movies, device=self.movie.weight.device
            )
        return self._sums

    def _final_sums(self) -> Tensor:
        """The sums for good [M, W]."""
        assert self.raters is not None, "training has not begun"
        if self.movie.weight.device.type != "cpu":
            return self.sums().sums(self.user_as_rater.weight)
        found = torch.zeros_like(self._members(self.movie.weight[:-1]))
        rater_UKW = self._members(self.user_as_rater.weight.detach()).numpy()
        self.raters.add_up(rater_UKW, into=found.numpy())
        return found.flatten(1)

    def block_rows(self) -> BlockRows | None:
        if self.raters is None:
            return None
        tables = (self.user, self.movie, self.user_as_rater)
        user, movie, x = (self._members(table.weight.detach()) for table in tables)
        return BlockRows(user, movie, x, self.offset.detach(), self.raters, self.range)

    def scores(self) -> DotScores:
        user_UKD, movie_MKD = (self._members(table.weight[:-1].detach()) for table in (self.user, self.movie))
        return DotScores(
            user_UKD[..., :-1].flatten(1).contiguous(),
            (movie_MKD[..., :-1].flatten(1) / self.n_members).contiguous(),
            movie_MKD[..., -1].mean(1),
        )

    def _table(self, kind: type[Table], n_rows: int, *, scale: float = _START) -> Table:
        """n_rows + 1 rows (the last for an unknown id) of K x (D + 1): each member's factors, then its
        bias."""
        n_factors, init = self.settings.n_factors, self.settings.init
        table = kind(n_rows + 1, self.n_members * (n_factors + 1))
        if init == "kaiming":
            nn.init.kaiming_normal_(table.weight)
        else:
            nn.init.normal_(table.weight, std=self.settings.init_std if init == "normal" else scale)
        with torch.no_grad():
            self._members(table.weight)[..., -1] = 0
        return table

    def _members(self, rows: Tensor) -> Tensor:
        return rows.view(len(rows), self.n_members, rows.shape[1] // self.n_members)


class _Sums:
    """The sums over R(m) as a sparse matrix, which also knows which pairs are part of it."""

    def __init__(self, raters: Raters, *, n_users: int, n_movies: int, device: torch.device) -> None:
        self.last_M, self.lot_U, self.weight_M = (
            torch.from_numpy(part).to(device) for part in (raters.last, raters.lot, raters.weight)
        )
        count_M = torch.from_numpy(np.diff(raters.first_user))
        movie = torch.repeat_interleave(torch.arange(n_movies), count_M).to(device)
        user = torch.from_numpy(raters.users).long().to(device)
        weights = self.weight_M[movie]
        self.of_movie = sparse(movie, user, weights, size=(n_movies, n_users + 1))
        self.of_user = sparse(user, movie, weights, size=(n_users + 1, n_movies))

    def sums(self, rater_UW: Tensor) -> Tensor:
        """The sum over each movie's raters [M, W], differentiable in rater_UW."""
        return sparse_product(rater_UW, self.of_movie, self.of_user)

    def own(self, user_idx: Tensor, movie_idx: Tensor) -> Tensor:
        """How much of the user itself is in the movie's sum [B], for pairs of the training ratings."""
        return torch.where(self.lot_U[user_idx] <= self.last_M[movie_idx], self.weight_M[movie_idx], 0.0)


NETWORK = DotRaters
