"""The ranking network: which movies will this user choose, and like, next?

A user is the weighted mean of the embeddings of the movies they rated, the latest counting
most; the network learns, from many points of every user's past, to name the ratings that
followed. With a history i = 1..n (latest last) and rating r_i,

    w_i  = (1 + a (r_i - mean r)) / (1 + (n - i) / h)          taste x recency
    x_u  = sum_i w_i e_i / sum_i |w_i|                          user vector       [D]
    s_um = <x_u, q_m> + b_m                                     ranking score
    loss = -mean_u sum_t v_t log softmax(s_u)_t                 t: the next ratings

where v_t, which sums to 1 per user, is larger for a liked movie. Only e, q [M, D] and b [M]
are learnt, so a user who arrives today needs no training, and a night's scoring is one
matrix product.

Sources: the tower over a history is that of Covington and others, "Deep neural networks for
YouTube recommendations" (2016), without the hidden layers, and predicts the future rather
than a hidden random rating for the reason given there; separate embeddings for history and
candidate follow Kabbur and others, "FISM" (2013); the correction of the sampled softmax
follows Bengio and Senecal (2008) and Yi and others (2019).
"""

import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from cfjobs.checkpoint import (
    NO_CHECKPOINTS,
    Checkpoints,
    State,
    optimizer_tensors,
    restore_optimizer,
)
from cfjobs.errors import TrainingDiverged
from cfjobs.features import Features
from cfjobs.models.side import HIDDEN_MOVIES, ValueEmbedding
from cfjobs.processes import ALONE, Processes

log = logging.getLogger(__name__)

_REPORT_EVERY = 100
_FALL = 0.99  # share of the learning rate that is gone at the end


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
    800 steps of 256 ranked better than 200 of 1,024: nDCG@10 0.197 and 0.176 on 24.8 million generated ratings."""

    learning_rate: float = 0.007
    """Adam's step at the start, with `batch_users` in a batch, and in proportion to the root of more; it falls
    linearly to nothing."""

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

    n_negatives: int = 2_048
    """Movies drawn uniformly in a step; the batch's targets join them as candidates."""

    def __post_init__(self) -> None:
        positive = ("n_factors", "batch_users", "learning_rate", "recency_half", "max_history", "next_n")
        for name in positive:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected more than 0")
        if not 0 <= self.history_drop < 1:
            raise ValueError(f"history_drop is {self.history_drop}, expected 0 <= x < 1")


@dataclass(frozen=True, kw_only=True)
class History:
    """Users' ratings in CSR form; within a user by time, the latest last."""

    indptr: Tensor  # [U + 1] int64
    movie_idx: Tensor  # [R] int64
    rating: Tensor  # [R] float32

    @classmethod
    def from_ratings(
        cls, user_idx: Tensor, movie_idx: Tensor, rating: Tensor, timestamp: Tensor, *, n_users: int
    ) -> "History":
        """Sorts by user, then time; ties keep their order. All tensors are [R]."""
        order = torch.argsort(timestamp, stable=True)
        order = order[torch.argsort(user_idx[order], stable=True)]
        counts = torch.bincount(user_idx, minlength=n_users)
        return cls(
            indptr=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
            movie_idx=movie_idx[order],
            rating=rating[order].to(torch.float32),
        )

    @classmethod
    def of(cls, ratings: pl.DataFrame, *, n_users: int) -> "History":
        """From user_idx, movie_idx, rating, already sorted by user and time."""
        counts = np.bincount(ratings["user_idx"].to_numpy(), minlength=n_users)
        return cls(
            indptr=torch.from_numpy(np.concatenate([[0], np.cumsum(counts)])),
            movie_idx=torch.from_numpy(ratings["movie_idx"].cast(pl.Int64).to_numpy(writable=True)),
            rating=torch.from_numpy(ratings["rating"].cast(pl.Float32).to_numpy(writable=True)),
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
            rows.append(_encode(self.history_vectors, history, users, end, mean, config=self.config))
        return torch.cat(rows) if rows else self.movie_vectors[:0]


def fit_ranking(
    history: History,
    *,
    n_movies: int,
    config: RankingConfig = RankingConfig(),
    device: torch.device | str = "cpu",
    seed: int = 0,
    start: Callable[[RankingModel], RankingModel] | None = None,
    features: Features | None = None,
    on_step: Callable[[int, float], None] | None = None,
    checkpoints: Checkpoints = NO_CHECKPOINTS,
    processes: Processes = ALONE,
) -> RankingModel:
    """The network after `config.n_steps` steps of Adam.

    A step takes a batch of users, cuts each one's history at a random point, and predicts
    the `next_n` ratings after the cut from those before it. start: makes the parameters to
    begin with from random ones, for a warm start. features: of the movies; a described movie without ratings
    is then ranked by them. `on_step(step, loss)` is called every 100 steps. Training goes on from the
    last of the checkpoints.

    Raises TrainingDiverged if the loss stops being finite.
    """
    course = _Course(
        history.to(torch.device(device)),
        n_movies=n_movies,
        config=config,
        seed=seed,
        start=start,
        features=features,
        processes=processes,
    )
    if (state := checkpoints.last(course.facts())) is not None:
        course.restore(state)
        log.info("going on from the checkpoint at ranking step %d", course.step)
    while course.step < course.n_steps:
        loss = course.take_step()
        done = course.step - 1
        if done % _REPORT_EVERY == 0 or course.step == course.n_steps:
            value = float(processes.sum(loss.detach()))
            if not math.isfinite(value):
                raise TrainingDiverged(
                    f"training: the ranking loss is {value} at step {done}; "
                    f"lower ranking_learning_rate (now {config.learning_rate})"
                )
            if on_step is not None:
                on_step(done, value)
        checkpoints.offer(course.state)
    return course.learnt()


class _Course:
    """A training under way: what it needs, and where it stands between two steps."""

    def __init__(
        self,
        history: History,
        *,
        n_movies: int,
        config: RankingConfig,
        seed: int,
        start: Callable[[RankingModel], RankingModel] | None,
        features: Features | None,
        processes: Processes,
    ) -> None:
        self.history, self.config, self.processes = history, config, processes
        self.warm = start is not None
        device = history.indptr.device
        self.generator = torch.Generator(device).manual_seed(seed)
        self.value = torch.where(history.rating >= config.like_from, 1.0, config.other_weight)
        popularity = torch.bincount(history.movie_idx, weights=self.value, minlength=n_movies) + 0.5
        self.popularity = (popularity / popularity.sum()).to(torch.float32)
        begin = random_model(self.popularity, config=config, generator=self.generator)
        if start is not None:
            begin = start(begin)
        parameters = {
            name: tensor.detach().clone().to(device).requires_grad_()
            for name, tensor in begin.tensors().items()
        }
        self.model = RankingModel(**parameters, config=config)
        self.parameters = list(parameters.values())
        self.side: MovieSide | None = None
        if features is not None:
            rated = torch.bincount(history.movie_idx, minlength=n_movies) > 0
            self.side = MovieSide(features, rated, config=config)
            self.parameters.append(self.side.values.weight)
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.learning_rate, fused=True)
        self.mean = history.mean_rating()
        self.trainable = torch.nonzero(history.indptr.diff() >= 2).squeeze(1)  # a past and a future
        n_batch = min(max(config.batch_users, len(self.trainable) // 5), config.max_batch_users)
        self.n_batch = min(n_batch, len(self.trainable))
        self.queue = self.trainable[:0]
        self.step = 0
        self.n_steps = config.n_steps if len(self.trainable) else 0

    def take_step(self) -> Tensor:
        """One step of Adam; returns this process's part of the loss."""
        peak = self.config.learning_rate * max(1.0, self.n_batch / self.config.batch_users) ** 0.5
        for group in self.optimizer.param_groups:
            group["lr"] = peak * (1 - _FALL * self.step / self.config.n_steps)
        loss = _next_ratings_loss(
            self.side.added_to(self.model, generator=self.generator) if self.side else self.model,
            self.history,
            self._next_users(),
            self.mean,
            value=self.value,
            popularity=self.popularity,
            generator=self.generator,
            processes=self.processes,
            drawable=self.side.rated_idx if self.side else None,
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.processes.sum_gradients(self.parameters)
        self.optimizer.step()
        self.step += 1
        return loss

    @torch.no_grad()
    def learnt(self) -> RankingModel:
        """The model as it is now, with side features folded in."""
        model = self.side.folded_into(self.model) if self.side else self.model
        tensors = {name: tensor.detach() for name, tensor in model.tensors().items()}
        return RankingModel(**tensors, config=self.config)

    def _next_users(self) -> Tensor:
        while len(self.queue) < self.n_batch:
            device = self.queue.device
            shuffled = torch.randperm(len(self.trainable), generator=self.generator, device=device)
            self.queue = torch.cat([self.queue, self.trainable[shuffled]])
        users, self.queue = self.queue[: self.n_batch], self.queue[self.n_batch :]
        return users

    def facts(self) -> dict[str, Any]:
        """What has to be alike for a checkpoint to be of this training."""
        return {
            "ratings": len(self.history.rating),
            "users": self.history.n_users,
            "movies": len(self.popularity),
            "config": asdict(self.config),
            "processes": self.processes.size,
            "warm": self.warm,
            "features": self.side.values.weight.shape[0] if self.side else 0,
        }

    def state(self) -> State:
        """All that the steps to come depend on."""
        parts: dict[str, dict[str, Tensor]] = {
            "model": self.model.tensors(),
            "optimizer": optimizer_tensors(self.optimizer),
            "random": {"generator": self.generator.get_state()},
            "users": {"queue": self.queue},
            "side": {"values": self.side.values.weight} if self.side else {},
        }
        tensors = {f"{part}/{name}": value for part, found in parts.items() for name, value in found.items()}
        return State(tensors, {"training": self.facts(), "step": self.step})

    @torch.no_grad()
    def restore(self, state: State) -> None:
        """Stand where the state was taken."""
        kept = state.part("model")
        for name, tensor in self.model.tensors().items():
            tensor.copy_(kept[name])
        if self.side:
            self.side.values.weight.copy_(state.tensors["side/values"])
        restore_optimizer(self.optimizer, state.part("optimizer"))
        self.generator.set_state(state.tensors["random/generator"])
        self.queue = state.tensors["users/queue"].to(self.queue.device)
        self.step = state.facts["step"]


class MovieSide:
    """What side features add to a movie's embeddings and bias, while they are learnt.

    A described movie's own part is replaced now and then by the typical one, the mean of the rated movies', so that
    its features learn to do without it; a described movie without ratings is that typical part and its features.
    """

    def __init__(self, features: Features, rated: Tensor, *, config: RankingConfig) -> None:
        width = 2 * config.n_factors + 1
        self.values = ValueEmbedding(features, width, hidden=HIDDEN_MOVIES, device=rated.device)
        self.rated, self.rated_idx = rated, torch.nonzero(rated).squeeze(1)

    def added_to(self, model: RankingModel, *, generator: torch.Generator) -> RankingModel:
        """The model of one step, differentiable."""
        every = torch.arange(len(self.rated), device=self.rated.device)
        own = self._with_typical(model, self.values.shown(every, generator=generator)[:, 0])
        return self._sum(own, self.values(), model.config)

    def folded_into(self, model: RankingModel) -> RankingModel:
        """The model for good."""
        return self._sum(
            self._with_typical(model, self.rated), self.values.filled(self.rated)[:-1], model.config
        )

    def _with_typical(self, model: RankingModel, shown: Tensor) -> dict[str, Tensor]:
        """The movies' own parts, the typical one where it is not shown [M]."""

        def filled(own: Tensor) -> Tensor:
            typical = own.detach()[self.rated].mean(dim=0)
            return torch.where(shown.view(-1, *[1] * (own.dim() - 1)), own, typical)

        return {name: filled(own) for name, own in model.tensors().items()}

    @staticmethod
    def _sum(own: dict[str, Tensor], sums: Tensor, config: RankingConfig) -> RankingModel:
        history, movie, bias = sums.split([config.n_factors, config.n_factors, 1], dim=1)
        return RankingModel(
            history_vectors=own["history_vectors"] + history,
            movie_vectors=own["movie_vectors"] + movie,
            movie_bias=own["movie_bias"] + bias[:, 0],
            config=config,
        )


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


def _next_ratings_loss(
    model: RankingModel,
    history: History,
    users: Tensor,
    mean: Tensor,
    *,
    value: Tensor,
    popularity: Tensor,
    generator: torch.Generator,
    processes: Processes = ALONE,
    drawable: Tensor | None = None,
) -> Tensor:
    """Softmax cross-entropy of the ratings after a random cut of each user's history.

    Every process draws for the whole batch, and takes the loss of its own users. drawable: movies that may be drawn as
    candidates, all by default.
    """
    config, device = model.config, users.device
    n_batch = len(users)
    start, stop = history.indptr[users], history.indptr[users + 1]
    n = stop - start
    share = 0.1 + 0.85 * torch.rand(n_batch, generator=generator, device=device)
    cut = start + torch.minimum((n * share).round().long().clamp_min(1), n - 1)
    hidden = _hidden(start, cut, config=config, generator=generator, processes=processes)

    rows_BT = cut[:, None] + torch.arange(config.next_n, device=device)
    exists_BT = rows_BT < stop[:, None]
    rows_BT = rows_BT.clamp_max(len(history.rating) - 1)
    target_BT = history.movie_idx[rows_BT]

    # Candidates: the batch's targets and uniform draws. log(chance of being one of them) is
    # taken off each score, so that the sampled softmax estimates the one over all movies.
    n_movies = len(model.movie_bias) if drawable is None else len(drawable)
    drawn = torch.randint(n_movies, (config.n_negatives,), generator=generator, device=device)
    if drawable is not None:
        drawn = drawable[drawn]
    candidates = torch.cat([target_BT[exists_BT], drawn]).unique()
    expected = exists_BT.sum() * popularity[candidates] + config.n_negatives / n_movies
    correction = torch.log(-torch.expm1(-expected))

    own = processes.own(n_batch)
    users, cut, rows_BT, exists_BT, target_BT = (x[own] for x in (users, cut, rows_BT, exists_BT, target_BT))
    value_BT = torch.where(exists_BT, value[rows_BT], 0.0)
    value_BT = value_BT / value_BT.sum(1, keepdim=True).clamp_min(1e-6)
    x_BD = _encode(model.history_vectors, history, users, cut, mean, config=config, hidden=hidden)
    logits_BC = torch.addmm(
        model.movie_bias[candidates] - correction, x_BD, model.movie_vectors[candidates].T
    )
    column_BT = torch.searchsorted(candidates, target_BT).clamp_max(len(candidates) - 1)
    log_z_B = logits_BC.logsumexp(1)
    return (value_BT * (log_z_B[:, None] - logits_BC.gather(1, column_BT))).sum() / n_batch


def _hidden(
    start: Tensor,
    end: Tensor,
    *,
    config: RankingConfig,
    generator: torch.Generator,
    processes: Processes,
) -> Tensor:
    """Which history rows of this process's users are hidden [H]; drawn for the whole batch."""
    last = (end - torch.maximum(start, end - config.max_history)).cumsum(0).tolist()
    draw = torch.rand(last[-1] if last else 0, generator=generator, device=start.device)
    own = processes.own(len(last))
    first, stop = ([0, *last][place] for place in (own.start, own.stop))
    return draw[first:stop] < config.history_drop


def _encode(
    vectors: Tensor,
    history: History,
    users: Tensor,
    end: Tensor,
    mean: Tensor,
    *,
    config: RankingConfig,
    hidden: Tensor | None = None,
) -> Tensor:
    """x [B, D] of `users` [B] from their rows before `end` [B], without the hidden ones [H]."""
    start = torch.maximum(history.indptr[users], end - config.max_history)
    length = end - start
    offsets = length.cumsum(0) - length
    user = torch.repeat_interleave(length)  # [H], position in the batch
    row = torch.arange(len(user), device=user.device) + (start - offsets)[user]
    back = end[user] - 1 - row
    liking = 1.0 + config.taste * (history.rating[row] - mean[users][user])
    weight = liking / (1.0 + back / config.recency_half)
    if hidden is not None:
        weight = weight * ~hidden
    total = weight.new_zeros(len(users)).index_add_(0, user, weight.abs())
    weight = weight / total.clamp_min(1e-6)[user]
    return embedding_bag(history.movie_idx[row], vectors, offsets, mode="sum", per_sample_weights=weight)
