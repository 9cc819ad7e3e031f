"""`dot_raters`: the dot product with biases, where a movie's vector also knows who rated it and how, and a
user's what they rated and how. The default.

    rating(u, m) = low + (high - low) x sigmoid(<p_u, v_m> + b_u + c_m)
    v_m = q_m + |R(m)|^-1/2 x sum of (x_w + r_wm x'_w) over w in R(m), w != u
    p_u = o_u + |N(u)|^-1/2 x sum of (y_n + r_un y'_n) over n in N(u), n != m   and likewise b_u and c_m

r is how far a rating is from its user's and its movie's mean. Where ratings are few (`ENOUGH`) or
very many (`MOST`) it is nothing, and neither are the sums of users: x alone is left.
R(m) are the users who rated m in training, a random few of them where there are many; N(u) the movies that u
rated, the most popular of them where there are many. Leaving u and m out matters: in training u did rate m,
tonight it did not. After the fit the sums are folded into the rows of movies and users, and what remains is
`dot_bias`. `ensemble` members start apart and are trained side by side; their logits are averaged, which is
one longer dot product.

Initialisation: embeddings normal(0, 0.1), so that members end apart; x and y ten times smaller; biases zero.
Source: `EmbeddingDotBias` of the fast.ai lesson; Koren, SVD++ (2008), for the sum on the user's side;
Rendle, Zhang and Koren, "On the difficulty of evaluating baselines" (2019), who turn it to the movie's.
"""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from cfjobs.compiled import counted
from cfjobs.models.network import BlockRows, DotScores, MovieTable, Network, RatingRange, Table, UserTable
from cfjobs.models.pair_dot import pair_logits
from cfjobs.models.raters import Floats, Raters, unusual
from cfjobs.models.recipe import BlockRecipe, Recipe, Settings
from cfjobs.models.side_features import sparse, sparse_product

ENOUGH = 20
"""Ratings for each user and movie, in the mean, from which there is more than x; of fewer it learns noise."""

MOST = 2_000_000
"""Ratings up to which there is more than x: it takes three to four times the time where no cache holds the
users."""

_START = 0.1
_MOST_PAIRS = (
    4_000_000  # in the sums, which every step goes through: a catalogue of many movies has fewer raters each
)


class DotRaters(Network):
    recipe: ClassVar[Recipe] = Recipe(learning_rate=0.01, l2=0.2, steps=500, batches_per_epoch=40)
    block_recipe: ClassVar[BlockRecipe | None] = BlockRecipe(passes=12, rate=0.05, l2=0.2)
    forgotten: ClassVar[tuple[str, ...]] = ("user_as_rater.weight", "movie_as_rated.weight")

    def __init__(self, *, n_users: int, n_movies: int, settings: Settings) -> None:
        super().__init__(n_users=n_users, n_movies=n_movies, settings=settings)
        self.n_members = settings.ensemble
        self.user = self._table(UserTable, n_users)
        self.movie = self._table(MovieTable, n_movies)
        self.offset = nn.Parameter(torch.zeros(()))
        self.range = RatingRange(settings.y_range, settings.y_padding)
        self._sums: tuple[_Sums, _Sums] | None = None
        self.raters: Raters | None = None
        self.rated: Raters | None = None
        self.value: Floats | None = None

    def setup(self, user_idx: Tensor, movie_idx: Tensor, rating: Tensor) -> None:
        """Learn who rated what and how, and make the embeddings x and y that the sums are of."""
        user, movie, stars = (column.cpu().numpy() for column in (user_idx, movie_idx, rating))
        enough = ENOUGH * (self.n_users + self.n_movies) <= len(user) <= MOST
        value = (
            unusual(user, movie, stars, n_users=self.n_users, n_movies=self.n_movies)
            if enough
            else np.zeros(len(user), np.float32)
        )
        self.value = value
        self.raters = Raters.of(
            user,
            movie,
            value,
            n_movies=self.n_movies,
            at_most=self._at_most(self.n_movies),
            order=torch.randperm(self.n_users).numpy(),
        )
        popular = np.argsort(-counted(movie, self.n_movies), kind="stable")
        self.rated = Raters.of(
            movie,
            user,
            value,
            n_movies=self.n_users,
            at_most=self._at_most(self.n_users) if enough else 0,
            order=np.argsort(popular),
        )
        x = self._table(UserTable, self.n_users, scale=0.1 * _START, n_rows_each=2)
        y = self._table(MovieTable, self.n_movies, scale=0.1 * _START, n_rows_each=2)
        self.user_as_rater, self.movie_as_rated = x.to(user_idx.device), y.to(user_idx.device)

    @torch.no_grad()
    def fold(self) -> None:
        """Fold the sums into the rows of movies and users, and forget who rated what."""
        self.unfinished = {
            "user.weight": self.user.weight.detach().clone(),
            "movie.weight": self.movie.weight.detach().clone(),
            "user_as_rater.weight": self.user_as_rater.weight.detach(),
            "movie_as_rated.weight": self.movie_as_rated.weight.detach(),
        }
        of_movies, of_users = self._final_sums()
        self.movie.weight[:-1] += of_movies
        self.user.weight[:-1] += of_users
        del self.user_as_rater, self.movie_as_rated
        self.raters = self.rated = self.value = self._sums = None

    def forward(self, user_idx: Tensor, movie_idx: Tensor) -> Tensor:
        """In training one prediction for each member [B, K]; otherwise that of their mean logit [B]."""
        movie_more: Tensor | None = None
        user_more: Tensor | None = None
        if self.raters is None and self.copies_no_rows(self.user, self.movie):
            members = self._members(self.user.weight), self._members(self.movie.weight)
            logit_BK = pair_logits(*members, user_idx, movie_idx, n_factors=self.settings.n_factors)
            found: Tensor = self.range(logit_BK.mean(1) + self.offset)
            return found
        if self.raters is not None:
            of_movies, of_users = self.sums()
            movie_more = of_movies.rows(self.user_as_rater.weight, movie_idx)
            user_more = of_users.rows(self.movie_as_rated.weight, user_idx)
            if self.training:
                as_rater = self.rows(self.user_as_rater, user_idx)
                as_rated = self.rows(self.movie_as_rated, movie_idx)
                movie_more = movie_more - of_movies.own(as_rater, user_idx, movie_idx)
                user_more = user_more - of_users.own(as_rated, movie_idx, user_idx)
        user_BW = self.rows(self.user, user_idx, more=user_more)
        movie_BW = self.rows(self.movie, movie_idx, more=movie_more)
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

    def sums(self) -> "tuple[_Sums, _Sums]":
        """The sums of movies and of users, as training by batches needs them; made on first use."""
        assert self.raters is not None, "training has not begun"
        assert self.rated is not None
        if self._sums is None:
            of_movies, of_users = self.raters, self.rated
            device, n_users, n_movies = self.movie.weight.device, self.n_users, self.n_movies
            self._sums = (
                _Sums(of_movies, n_users=n_users, n_movies=n_movies, device=device),
                _Sums(of_users, n_users=n_movies, n_movies=n_users, device=device),
            )
        return self._sums

    def _final_sums(self) -> tuple[Tensor, Tensor]:
        """The sums for good, of movies [M, W] and of users [U, W]."""
        assert self.raters is not None, "training has not begun"
        assert self.rated is not None
        if self.movie.weight.device.type != "cpu":
            of_movies, of_users = self.sums()
            return of_movies.sums(self.user_as_rater.weight), of_users.sums(self.movie_as_rated.weight)
        found = []
        for table, summed, raters in (
            (self.movie, self.user_as_rater, self.raters),
            (self.user, self.movie_as_rated, self.rated),
        ):
            into = torch.zeros_like(self._members(table.weight[:-1]))
            raters.add_up(self._rows(summed.weight.detach()).numpy(), into=into.numpy())
            found.append(into.flatten(1))
        return found[0], found[1]

    def _at_most(self, n: int) -> int:
        """How many a sum of each of n is over at most."""
        return min(self.settings.max_raters, max(8, _MOST_PAIRS // n))

    def block_rows(self) -> BlockRows | None:
        if self.raters is None or self.rated is None or self.value is None:
            return None
        tables = (self.user, self.movie, self.user_as_rater, self.movie_as_rated)
        user, movie, x, y = (self._rows(table.weight.detach()) for table in tables)
        offset = self.offset.detach()
        return BlockRows(user, movie, x, y, offset, self.raters, self.rated, self.value, self.range)

    def scores(self) -> DotScores:
        user_UKD, movie_MKD = (self._members(table.weight[:-1].detach()) for table in (self.user, self.movie))
        return DotScores(
            user_UKD[..., :-1].flatten(1).contiguous(),
            (movie_MKD[..., :-1].flatten(1) / self.n_members).contiguous(),
            movie_MKD[..., -1].mean(1),
        )

    def _table(self, kind: type[Table], n_rows: int, *, scale: float = _START, n_rows_each: int = 1) -> Table:
        """n_rows + 1 rows (the last for an unknown id) of K x (D + 1): each member's factors, then its
        bias; or n_rows_each of them side by side."""
        n_factors, init = self.settings.n_factors, self.settings.init
        table = kind(n_rows + 1, n_rows_each * self.n_members * (n_factors + 1))
        if init == "kaiming":
            nn.init.kaiming_normal_(table.weight)
        else:
            nn.init.normal_(table.weight, std=self.settings.init_std if init == "normal" else scale)
        with torch.no_grad():
            self._rows(table.weight)[..., -1] = 0
        return table

    def _rows(self, weight: Tensor) -> Tensor:
        """Rows of factors and a bias [N, K or 2 K, D + 1]."""
        return weight.view(len(weight), -1, self.settings.n_factors + 1)

    def _members(self, rows: Tensor) -> Tensor:
        return rows.view(len(rows), self.n_members, rows.shape[1] // self.n_members)


class _Sums:
    """The sums over R(m) as a sparse matrix, which also knows which pairs are part of it; or those over N(u),
    users and movies the other way round.

    The matrix has two columns a user, for x and for x'.
    """

    def __init__(self, raters: Raters, *, n_users: int, n_movies: int, device: torch.device) -> None:
        count_M = torch.from_numpy(np.diff(raters.first_user))
        movie = torch.repeat_interleave(torch.arange(n_movies), count_M).to(device)
        user = torch.from_numpy(raters.users).long().to(device)
        weight = torch.from_numpy(raters.weight).to(device)[movie]
        values = torch.stack([weight, weight * torch.from_numpy(raters.user_value).to(device)], 1)
        row, column = (
            movie.repeat_interleave(2),
            (2 * user[:, None] + torch.arange(2, device=device)).flatten(),
        )
        n_columns = 2 * (n_users + 1)
        self.of_movie = sparse(row, column, values.flatten(), size=(n_movies, n_columns))
        self.of_user = sparse(column, row, values.flatten(), size=(n_columns, n_movies))
        self.n_movies = n_movies
        self.pair, order = (user * n_movies + movie).sort()
        self.values = values[order]

    def sums(self, rater_UW: Tensor) -> Tensor:
        """The sum over each movie's raters [M, W], differentiable in rater_UW [U + 1, 2 W]."""
        return sparse_product(rater_UW.view(2 * len(rater_UW), -1), self.of_movie, self.of_user)

    def rows(self, rater_UW: Tensor, movie_idx: Tensor) -> Tensor:
        """The sums of these movies [B, W]; nothing for an unknown one."""
        known = torch.where(movie_idx < 0, 0, movie_idx)
        found: Tensor = nn.functional.embedding(known, self.sums(rater_UW)) * (movie_idx >= 0)[:, None]
        return found

    def own(self, rater_BW: Tensor, user_idx: Tensor, movie_idx: Tensor) -> Tensor:
        """What the user itself is in the movie's sum [B, W], for pairs of the training ratings.
        rater_BW [B, 2 W]: the users' rows."""
        parts = rater_BW.view(len(rater_BW), 2, -1)
        if not len(self.pair):
            return torch.zeros_like(parts[:, 0])
        pair = user_idx * self.n_movies + movie_idx
        at = torch.searchsorted(self.pair, pair).clamp(max=len(self.pair) - 1)
        values = self.values[at] * (self.pair[at] == pair)[:, None]
        return (values[:, :, None] * parts).sum(1)


NETWORK = DotRaters
