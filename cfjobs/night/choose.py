"""How much a night's lists go by predicted stars: the weight, chosen on a split of its own training ratings.

Some users' training ratings are split as the night's ratings were; both networks are fitted to the earlier
part, the ranking one for a share of its steps, and each weight's lists are held against the later part. The
holdout that the night is measured on is not looked at.
"""

import logging
from dataclasses import replace

import numpy as np
import polars as pl
import torch

from cfjobs import evaluation, lists, training
from cfjobs.lists import blend
from cfjobs.lists.blend import LEAST_USERS, TYPICAL, WEIGHTS, Blend, allowed, chosen, kept
from cfjobs.model_store.files import Model
from cfjobs.models.network import DotScores
from cfjobs.ratings import holdout
from cfjobs.topn import Kept
from cfjobs.training.fit import fit_rating_model, training_of
from cfjobs.training.warm_start import COLD

log = logging.getLogger(__name__)

_MOST_USERS = 5_000
"""Users whose ratings the inner networks are fitted to and measured on: the time is bounded,
whatever the size of the data."""

_STEPS = 0.25
"""Share of the ranking network's steps: the best weight is the same as after all of them."""


def choose(task: training.Task, *, device: torch.device, last: float | None = None) -> Blend:
    """The weight for the lists of a task's networks. task: of the night's measured training; last:
    the last night's weight."""
    config = task.config
    if config.stars_weight is not None:
        return Blend(weight=config.stars_weight)
    if not isinstance(training.new_network(replace(task, n_users=1, n_movies=1)).scores(), DotScores):
        log.info("the lists go by affinity alone: model = %s does not score by a dot product", config.model)
        return Blend(weight=0.0)
    inner, valid = _inner(task)
    relevant = training.relevant_rating(config, y_range=task.y_range)
    n_relevant = valid.filter(pl.col("rating") >= relevant)["user_idx"].n_unique()
    if n_relevant < LEAST_USERS:
        log.info("too few users to choose the weight of stars (%d): it is %g", n_relevant, TYPICAL)
        return Blend(weight=TYPICAL, users=n_relevant)
    kit = training.Kit(device)
    network, _ = fit_rating_model(inner, kit, training=training_of(inner, kit))
    model = Model(
        network.eval(),
        training.fit_ranking_model(inner, kit),
        config,
        _counted("user_id", inner.kept["user_idx"], inner.n_users),
        _counted("movie_id", inner.kept["movie_idx"], inner.n_movies),
    )
    users, held = range(inner.n_users), evaluation.Holdout.of(valid)
    mean = inner.kept.group_by("user_idx").agg(pl.col("rating").mean())
    mean_rating = np.zeros(inner.n_users)
    mean_rating[mean["user_idx"].to_numpy()] = mean["rating"].to_numpy()
    tried, disliked = {}, {}
    request = lists.request_of(replace(model, stars_weight=0.0), inner.kept, users=users)
    affinity, liking = request.scores, lists.stars(model, users)
    assert isinstance(affinity, DotScores)
    assert isinstance(liking, DotScores)
    star, movies = lists.stars_factor(replace(model, stars_weight=1.0)), Kept()
    for weight in WEIGHTS:
        weighed = replace(request, scores=blend.weighed(affinity, liking, star=star, weight=weight))
        found = evaluation.list_metrics(
            lists.best(weighed, n=evaluation.K, kept=movies),
            held,
            relevant_rating=relevant,
            n_users=len(users),
            n_candidates=task.n_movies,
            mean_rating=mean_rating,
        )
        tried[weight] = found[f"ndcg_at_{evaluation.K}"]
        disliked[weight] = found[f"disliked_share_at_{evaluation.K}"]
    weight = kept(last, chosen(tried, disliked), allowed(tried, disliked))
    result = Blend(weight=weight, tried=tried, disliked=disliked, users=int(found["users_measured"]))
    log.info(
        "weight of stars: %g; nDCG@%d and disliked places on %d users of an inner split %s",
        result.weight,
        evaluation.K,
        result.users,
        ", ".join(f"{weight:g}: {value:.4f}, {disliked[weight]:.1%}" for weight, value in tried.items()),
    )
    return result


def _inner(task: training.Task) -> tuple[training.Task, pl.DataFrame]:
    """The fit to the earlier part of some users' ratings, their rows counted anew, and the later part."""
    config = task.config
    rng = np.random.default_rng(config.seed)
    users = np.sort(rng.permutation(task.n_users)[:_MOST_USERS])
    row = np.full(task.n_users, -1, np.int32)
    row[users] = np.arange(users.size, dtype=np.int32)
    frame = (
        task.kept.select("user_idx", "movie_idx", "rating")
        .with_columns(pl.Series("user_idx", row[task.kept["user_idx"].to_numpy()]))
        .filter(pl.col("user_idx") >= 0)
    )
    kind: holdout.Kind = "random" if holdout.kind_of(config, task.question) == "random" else "temporal"
    held = holdout.held_out(
        kind, frame["user_idx"].to_numpy(), fraction=config.holdout_fraction, seed=config.seed
    )
    settings = {
        "ranking_steps": max(1, round(config.ranking_steps * _STEPS)),
        "processes": 1,
        "user_features": (),
    }
    inner = replace(
        task,
        config=config.model_copy(update=settings),
        n_users=users.size,
        kept=frame.filter(~held),
        valid=frame.clear(),
        stop_fraction=1.0,
        start=COLD,
        user_features=None,
    )
    return inner, frame.filter(held)


def _counted(name: str, idx: pl.Series, size: int) -> pl.DataFrame:
    count = np.bincount(idx.to_numpy(), minlength=size)
    return pl.DataFrame({name: np.arange(size), "n_ratings": count})
