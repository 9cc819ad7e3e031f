"""The ranking network: which movies will this user choose, and like, next?

A user is the weighted mean of the embeddings of the movies they rated, the latest counting most; the network
learns, from many points of every user's past, to name the ratings that followed. With a history i = 1..n
(latest last) and rating r_i,

    w_i  = (1 + a (r_i - mean r)) / (1 + (n - i) / h)          taste x recency
    x_u  = sum_i w_i e_i / sum_i |w_i|                          user vector       [D]
    s_um = <x_u, q_m> + b_m                                     ranking score
    loss = -mean_u sum_t v_t log softmax(s_u)_t                 t: the next ratings

where v_t, which sums to 1 per user, is larger for a liked movie, or in proportion to what the choice weighs
where nothing is liked or disliked (implicit feedback). Only e, q [M, D] and b [M] are learnt, so a
user who arrives today needs no training, and a night's scoring is one matrix product.

Sources: the tower over a history is that of Covington and others, "Deep neural networks for YouTube
recommendations" (2016), without the hidden layers, and predicts the future rather than a hidden random rating
for the reason given there; separate embeddings for history and candidate follow Kabbur and others, "FISM"
(2013); the correction of the sampled softmax follows Bengio and Senecal (2008) and Yi and others (2019).
"""

import warnings
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from cfjobs.compiled import counted
from cfjobs.models.past_kernels import past


@dataclass(frozen=True, kw_only=True)
class RankingConfig:
    """The defaults were chosen on inner temporal splits of the lesson's data."""

    n_factors: int = 128
    """Length of an embedding. 64 ranks a little worse and halves the cost of a night's scoring."""

    n_steps: int = 800
    """Gradient steps, whatever the size of the data: small data are passed over many times,
    large data a few times, and the cost of training is bounded."""

    batch_users: int = 128
    """Users in a step where there are few of them."""

    max_batch_users: int = 256
    """Users in a step where there are many: the batch grows until 5 steps see every user. In the same time
    800 steps of 256 ranked better than 200 of 1,024: nDCG@10 0.197 and 0.176 on 24.8 million generated
    ratings."""

    learning_rate: float = 0.007
    """Adam's step at the start, with `batch_users` in a batch, and in proportion to the root of more;
    it falls linearly to nothing."""

    init_std: float = 0.1
    """Spread of the random embeddings."""

    recency_half: float = 5.0
    """Ratings back at which a movie counts half as much as the latest (h)."""

    taste: float = 0.3
    """How much more a movie counts per star above the user's mean (a)."""

    history_drop: float = 0.5
    """Share of the history hidden at random in training."""

    max_history: int = 256
    """Older ratings than this many are left out of the user vector."""

    next_n: int = 10
    """Ratings after the cut that are to be predicted."""

    like_from: float = 4.0
    """A rating from here on is liked."""

    other_weight: float = 0.3
    """Weight of a target that was chosen but not liked; a liked one has 1."""

    n_negatives: int = 1_024
    """Movies drawn uniformly in a step; the batch's targets join them as candidates."""

    weighed: bool = False
    """The histories are implicit feedback: a rating is what the choice weighs, and says nothing of liking."""

    def __post_init__(self) -> None:
        positive = ("n_factors", "batch_users", "learning_rate", "recency_half", "max_history", "next_n")
        for name in positive:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected more than 0")
        if not 0 <= self.history_drop < 1:
            raise ValueError(f"history_drop is {self.history_drop}, expected 0 <= x < 1")


@dataclass(frozen=True, kw_only=True)
class History:
    """Users' ratings in CSR form; within a user by time, the latest last. Not to be written to."""

    indptr: Tensor  # [U + 1] int64
    movie_idx: Tensor  # [R] int32 or int64
    rating: Tensor  # [R] float32

    @classmethod
    def of(cls, ratings: pl.DataFrame, *, n_users: int) -> "History":
        """From user_idx, movie_idx, rating, already sorted by user and time."""
        counts = counted(ratings["user_idx"].to_numpy(), n_users)
        return cls(
            indptr=torch.from_numpy(np.concatenate([[0], np.cumsum(counts)])),
            movie_idx=shared(ratings["movie_idx"].cast(pl.Int32)),
            rating=shared(ratings["rating"].cast(pl.Float32)),
        )

    @property
    def n_users(self) -> int:
        return len(self.indptr) - 1

    def to(self, device: torch.device) -> "History":
        return History(
            indptr=self.indptr.to(device),
            movie_idx=self.movie_idx.to(device),
            rating=self.rating.to(device),
        )

    def mean_rating(self) -> Tensor:
        """[U]; 0 for a user without ratings."""
        total = torch.segment_reduce(self.rating, "sum", offsets=self.indptr)
        return total / self.indptr.diff().clamp_min(1)

    def worth(self, config: RankingConfig) -> Tensor:
        """What each rating is worth as a target [R]: 1 if liked, else `other_weight`; of implicit feedback
        its weight against the mean of its user's, so that each user counts alike and no unit matters."""
        if not config.weighed:
            return torch.where(self.rating >= config.like_from, 1.0, config.other_weight)
        return self.rating / torch.repeat_interleave(self.mean_rating(), self.indptr.diff())


@dataclass(frozen=True)
class Past:
    """What B users rated before some moment, H ratings in all, and what each counts for in a user vector."""

    movie_idx: Tensor  # [H]
    weight: Tensor  # [H]; of one user the absolute values sum to 1
    offsets: Tensor  # [B], where each user's part begins

    @classmethod
    def before(
        cls,
        history: History,
        users: Tensor,
        end: Tensor,
        mean: Tensor,
        *,
        config: RankingConfig,
        generator: torch.Generator | None = None,
    ) -> Self:
        """The rows of `users` [B] before `end` [B], `max_history` at most; with a generator, the share
        `history_drop` of them is left out. mean [U]: of each user's ratings."""
        start = torch.maximum(history.indptr[users], end - config.max_history)
        n, device = int((end - start).sum()), end.device
        drawn = torch.empty(0, device=device)
        if generator is not None:
            drawn = torch.rand(n, generator=generator, device=device)
        weighed = _weighed_by_torch if device.type == "cuda" else _weighed
        return cls(*weighed((users, start, end, history.movie_idx, history.rating, mean, drawn), config))

    def part(self, users: slice) -> "Past":
        """That of some of the users."""
        ends = [*self.offsets.tolist(), len(self.movie_idx)]
        rows = slice(ends[users.start], ends[users.stop])
        return Past(self.movie_idx[rows], self.weight[rows], self.offsets[users] - rows.start)

    def encoded(self, vectors: Tensor) -> Tensor:
        """User vectors x [B, D]. vectors [M, D]: e."""
        return embedding_bag(
            self.movie_idx, vectors, self.offsets, mode="sum", per_sample_weights=self.weight
        )


def _weighed(of: tuple[Tensor, ...], config: RankingConfig) -> tuple[Tensor, ...]:
    """See `past_kernels.past`, which says what is given and found."""
    numbers = (np.float32(x) for x in (config.history_drop, config.taste, config.recency_half))
    movie_idx, weight, offsets = past(*(part.numpy() for part in of), *numbers)
    return torch.from_numpy(movie_idx), torch.from_numpy(weight), torch.from_numpy(offsets)


def _weighed_by_torch(of: tuple[Tensor, ...], config: RankingConfig) -> tuple[Tensor, ...]:
    """The same on a GPU."""
    users, start, end, movie_idx, rating, mean, drawn = of
    length = end - start
    user = torch.repeat_interleave(length)  # [H], position among `users`
    row = torch.arange(len(user), device=user.device) + (start - length.cumsum(0) + length)[user]
    if len(drawn):
        kept = torch.nonzero(drawn >= config.history_drop).squeeze(1)
        user, row = user[kept], row[kept]
        length = torch.bincount(user, minlength=len(users))
    liking = 1.0 + config.taste * (rating[row] - mean[users][user])
    weight = liking / (1.0 + (end[user] - 1 - row) / config.recency_half)
    total = weight.new_zeros(len(users)).index_add_(0, user, weight.abs())
    weight = weight / total.clamp_min(1e-6)[user]
    return movie_idx[row].long(), weight, length.cumsum(0) - length


def shared(column: pl.Series) -> Tensor:
    """A column as a tensor, in the column's memory where it lies in one piece; not to be written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(column.to_numpy())


@dataclass(frozen=True, kw_only=True)
class RankingModel:
    """What was learnt. score(u, m) = <user_vectors[u], movie_vectors[m]> + movie_bias[m]."""

    history_vectors: Tensor  # [M, D], e
    movie_vectors: Tensor  # [M, D], q
    movie_bias: Tensor  # [M], b
    config: RankingConfig = field(default_factory=RankingConfig)

    def tensors(self) -> dict[str, Tensor]:
        """What was learnt, by name."""
        return {
            "history_vectors": self.history_vectors,
            "movie_vectors": self.movie_vectors,
            "movie_bias": self.movie_bias,
        }

    def to(self, device: torch.device) -> "RankingModel":
        moved = {name: tensor.to(device) for name, tensor in self.tensors().items()}
        return RankingModel(**moved, config=self.config)

    @torch.no_grad()
    def user_vectors(self, history: History, *, batch_users: int = 8_192) -> Tensor:
        """[U, D]. A user without ratings gets zeros, and so the order of `movie_bias`."""
        device = self.movie_vectors.device
        history = history.to(device)
        mean = history.mean_rating()
        rows = []
        for users in torch.arange(history.n_users, device=device).split(batch_users):
            end = history.indptr[users + 1]
            past = Past.before(history, users, end, mean, config=self.config)
            rows.append(past.encoded(self.history_vectors))
        return torch.cat(rows) if rows else self.movie_vectors[:0]


def random_model(popularity: Tensor, *, config: RankingConfig, generator: torch.Generator) -> RankingModel:
    """Random embeddings, and a bias by popularity [M], which sums to 1."""
    device = popularity.device
    shape = (len(popularity), config.n_factors)
    history, movie = (
        torch.randn(shape, generator=generator, device=device) * config.init_std for _ in range(2)
    )
    return RankingModel(
        history_vectors=history, movie_vectors=movie, movie_bias=popularity.log(), config=config
    )
