"""Both networks of a night, fitted to a frame of ratings: one for stars, unless they are implicit feedback,
and, where lists go by affinity, one that ranks."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import torch

from cfjobs import models
from cfjobs.compiled import compiled, counted
from cfjobs.config import Config, relevant_from
from cfjobs.features import Features
from cfjobs.models.network import Network
from cfjobs.models.ranker import History, RankingConfig, RankingModel, shared
from cfjobs.ratings.question import Question
from cfjobs.training.checkpoint import NO_CHECKPOINTS, Checkpoints
from cfjobs.training.distributed import ALONE, Processes
from cfjobs.training.epochs import Epoch, Examples, best_epoch
from cfjobs.training.linear import fit_linear
from cfjobs.training.ranker import Step, fit_ranking
from cfjobs.training.rating import fit_rating
from cfjobs.training.warm_start import COLD, Start

log = logging.getLogger(__name__)

_PROFILE_MOVIES = 2_048
"""Movies of the network for users without times: a few seconds at any size of the data."""

_MOST_VALID = 1_000_000
"""Held-out ratings, evenly over the users, by whose loss the best epoch is known: to a thousandth of it."""

Progress = Callable[[float, str], None]
"""Called with the share done, 0 to 1, and a few words."""


@dataclass(frozen=True)
class Task:
    """What is fitted, and how. kept: the ratings to learn from, user_idx, movie_idx, rating, sorted by user
    and time; valid: those that choose the best epoch. Of implicit feedback a rating is the pair's weight."""

    config: Config
    n_users: int
    n_movies: int
    y_range: tuple[float, float]
    kept: pl.DataFrame
    valid: pl.DataFrame
    stop_fraction: float = 1.0
    start: Start = COLD
    question: Question = "next"
    user_features: Features | None = None
    movie_features: Features | None = None


@dataclass(frozen=True)
class Kit:
    """What a fit is given beside its task: where it runs, where it leaves checkpoints, whom it tells."""

    device: torch.device
    processes: Processes = ALONE
    rating: Checkpoints = NO_CHECKPOINTS
    ranking: Checkpoints = NO_CHECKPOINTS
    progress: Progress | None = None


@dataclass(frozen=True)
class Fitted:
    """The networks, the record of the epochs of the first, and how that one was trained; implicit feedback
    has no such network."""

    network: Network | None
    ranking: RankingModel | None
    record: list[Epoch]
    training: models.Training | None

    @property
    def fraction(self) -> float:
        """Of the planned epochs, up to the best one."""
        if not self.record:
            return 1.0
        return best_epoch(self.record) / self.record[-1].of


def fit_networks(task: Task, kit: Kit) -> Fitted:
    """Fit both networks; the seed of the configuration decides every random choice."""
    if task.config.feedback == "implicit":
        return Fitted(None, fit_ranking_model(task, kit), [], None)
    training = training_of(task, kit)
    network, record = fit_rating_model(task, kit, training=training)
    ranking = fit_ranking_model(task, kit) if task.config.rank_by != "rating" else None
    return Fitted(network, ranking, record, training)


def fit_rating_model(task: Task, kit: Kit, *, training: models.Training) -> tuple[Network, list[Epoch]]:
    """The rating network of a task, and the record of its epochs."""
    config = task.config
    network = new_network(task).to(kit.device)
    network.describe(users=task.user_features, movies=task.movie_features)
    # A rating at a time goes by the rows as they are in the frame; by batches, as torch indexes.
    kind: type[pl.DataType] = pl.Int32 if training == "blocked_sgd" else pl.Int64
    learn = examples(task.kept, kit.device, rows=kind)
    if task.question == "next":
        learn = replace(learn, weight=later_counts_more(learn.user_idx))
    log.info("training %s on %d ratings by %s, %s", config.model, len(learn), training, kit.device)
    record = fit_rating(
        network,
        learn,
        config=config,
        valid=examples(_some(task.valid), kit.device, rows=kind) if task.valid.height else None,
        stop_fraction=task.stop_fraction,
        start=task.start.rating,
        passes=task.start.passes,
        on_epoch=_epoch_reporter(kit.progress),
        checkpoints=kit.rating,
        processes=kit.processes,
        training=training,
    )
    return network, record


def _some(valid: pl.DataFrame) -> pl.DataFrame:
    return valid.gather_every(-(-valid.height // _MOST_VALID))


def training_of(task: Task, kit: Kit) -> models.Training:
    """How the rating network of a task is trained with this kit."""
    return models.training_of(task.config, device=kit.device.type, processes=kit.processes.size)


def new_network(task: Task) -> Network:
    """The rating network of a task, untrained."""
    torch.manual_seed(task.config.seed)
    return models.build(
        task.config.model,
        n_users=task.n_users,
        n_movies=task.n_movies,
        settings=models.settings(task.config, y_range=task.y_range),
    )


def fit_ranking_model(task: Task, kit: Kit) -> RankingModel:
    """The ranking network of a task: by steps,
    or in closed form where the question is not what comes next."""
    config = ranking_config(task.config, y_range=task.y_range)
    history = History.of(task.kept, n_users=task.n_users)
    if task.question == "any" and task.movie_features is None:
        log.info("the ranking network in closed form: the order of the ratings is not asked for")
        return fit_linear(
            history, n_movies=task.n_movies, config=config, device=kit.device, seed=task.config.seed
        )
    if task.start.ranking is not None:
        config = replace(
            config,
            n_steps=max(1, round(config.n_steps * task.config.warm_share)),
            learning_rate=config.learning_rate * task.start.pace,
        )
    return fit_ranking(
        history,
        n_movies=task.n_movies,
        config=config,
        device=kit.device,
        seed=task.config.seed,
        start=task.start.ranking,
        features=task.movie_features,
        on_step=_step_reporter(kit.progress),
        checkpoints=kit.ranking,
        processes=kit.processes,
    )


def fit_profile(task: Task, *, device: torch.device) -> RankingModel | None:
    """For users whose ratings come without times: the ranking network in closed form beside the one that asks
    what is next; None where there is no such network, or it is that already."""
    if task.config.rank_by == "rating" or task.question == "any":
        return None
    return fit_linear(
        History.of(task.kept, n_users=task.n_users),
        n_movies=task.n_movies,
        config=ranking_config(task.config, y_range=task.y_range),
        device=device,
        seed=task.config.seed,
        most_movies=_PROFILE_MOVIES,
    )


def examples(frame: pl.DataFrame, device: torch.device, *, rows: type[pl.DataType] = pl.Int64) -> Examples:
    """Ratings as tensors on the device, not copied where they are on a processor and of the right types.
    rows: the type of row numbers."""
    types: dict[str, type[pl.DataType]] = {"user_idx": rows, "movie_idx": rows, "rating": pl.Float32}
    return Examples(*(shared(frame[name].cast(kind)).to(device) for name, kind in types.items()))


def later_counts_more(user_idx: torch.Tensor) -> torch.Tensor:
    """How much each rating counts [R], 1 in the mean: a user's last one e times as much as their first, since
    taste and habit of rating drift, and stars are predicted for ratings to come.

    user_idx [R]: the users of ratings in the order of their times within a user, each user's side by side.
    """
    weight = np.empty(len(user_idx), np.float32)
    user = user_idx.cpu().numpy()
    _weigh_later(user, counted(user, int(user.max(initial=-1)) + 1), weight)
    return torch.from_numpy(weight).to(user_idx.device)


@compiled()
def _weigh_later(user, count, weight):  # type: ignore[no-untyped-def]
    place, total = 0, 0.0
    for t in range(len(user)):
        place = place + 1 if t and user[t] == user[t - 1] else 1
        weight[t] = np.exp(place / count[user[t]] - 1)
        total += weight[t]
    for t in range(len(user)):
        weight[t] *= len(user) / total


def ranking_config(config: Config, *, y_range: tuple[float, float]) -> RankingConfig:
    """The ranking network's part of a configuration."""
    implicit = config.feedback == "implicit"
    return RankingConfig(
        n_factors=config.ranking_factors,
        n_steps=config.ranking_steps,
        learning_rate=config.ranking_learning_rate,
        recency_half=config.recency_half,
        taste=0.0 if implicit else config.taste,
        weighed=implicit,
        history_drop=config.history_dropout,
        like_from=relevant_rating(config, y_range=y_range),
    )


def relevant_rating(config: Config, *, y_range: tuple[float, float]) -> float:
    """The rating from which a movie counts as liked; of implicit feedback everything does."""
    if config.feedback == "implicit":
        return 0.0
    return config.relevant_rating if config.relevant_rating is not None else relevant_from(y_range)


def _epoch_reporter(progress: Progress | None) -> Callable[[Epoch], None] | None:
    if progress is None:
        return None
    return lambda e: progress(e.epoch / e.of, f"epoch {e.epoch}, {e.losses}")


def _step_reporter(progress: Progress | None) -> Callable[[Step], None] | None:
    if progress is None:
        return None
    return lambda s: progress(s.step / s.of, f"ranking step {s.step} of {s.of}, loss {s.loss:.4f}")
