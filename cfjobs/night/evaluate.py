"""The stage that measures a model on the holdout, and the gate that looks at the figures."""

import logging
from collections.abc import Sequence

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from cfjobs import evaluation, lists, model_store, training
from cfjobs.device import resolve_device
from cfjobs.errors import DamagedFile, GateRefused
from cfjobs.evaluation.gate import Comparison, Scale, comparisons, input_comparisons, refusals
from cfjobs.evaluation.list_baselines import rivals
from cfjobs.model_store.slices import of_some_users
from cfjobs.models.predict import predict
from cfjobs.night import side_tables
from cfjobs.night.records import LEARNT, Metrics, Night, Prepared, Trained, as_decided
from cfjobs.night.split import held_out
from cfjobs.storage.parquet import TableFile, parquet_bytes
from cfjobs.tables import runs

log = logging.getLogger(__name__)

_AT_ONCE = 1_000_000
"""Ratings that are read, or predicted, at once."""

MEASURED_USERS = 30_000
"""Users whose lists are measured, at random where there are more: the interval of nDCG is then some 0.005
wide."""


def measure(night: Night, prepared: Prepared, trained: Trained) -> Metrics:
    """Holdout metrics of a model that has not seen the holdout; all None without one."""
    held = held_out(night)
    if not held.any():
        return dict.fromkeys(evaluation.NAMES)
    config = as_decided(night, prepared)
    model = model_store.load_model(trained.model_uri).to(resolve_device(config.device))
    kept, test = _split(night, held, n_users=prepared.n_users)
    predicted = None
    if model.stars is not None:
        predicted = np.empty(test.height, np.float32)
        for first in range(0, test.height, _AT_ONCE):
            some = training.examples(test.slice(first, _AT_ONCE), model.device)
            found = predict(model.stars, some.user_idx, some.movie_idx).cpu().numpy()
            predicted[first : first + _AT_ONCE] = found

    sample = sampled(model.users["user_id"], seed=config.seed)
    of_sample, mine = model, kept.drop("timestamp")
    if sample.size < prepared.n_users:
        night.write("sample.parquet", parquet_bytes(pl.DataFrame({"user_idx": sample})))
        of_sample = of_some_users(model, sample)
        mine = _of_users(mine, sample, n_users=prepared.n_users)

    def stars(user_idx: NDArray[np.int64], movie_idx: NDArray[np.int64]) -> NDArray[np.float32]:
        rows = (torch.from_numpy(idx).to(model.device) for idx in (user_idx, movie_idx))
        return predict(of_sample.network, *rows).cpu().numpy()

    found_rivals = rivals(
        kept,
        np.intersect1d(test["user_idx"].unique().to_numpy(), sample),
        ordered=prepared.question == "next",
        k=evaluation.K,
        seed=config.seed,
    )
    kept = kept.drop("timestamp")
    request = lists.request_of(of_sample, mine, users=range(sample.size))
    measures = evaluation.measures(
        holdout=evaluation.Holdout.of(test),
        training=evaluation.Holdout.of(kept),
        predicted=predicted,
        lists=lists.best(request, n=evaluation.K),
        popular=lists.popular(of_sample, request.seen, n=evaluation.K),
        relevant_rating=training.relevant_rating(config, y_range=prepared.y_range),
        candidates=lists.candidates(model),
        n_users=prepared.n_users,
        seed=config.seed,
        predict=None if model.stars is None else stars,
        traits=side_tables.traits(model),
        rivals=found_rivals,
        sample=sample,
    )
    side_tables.keep_measures(night, measures, held_out=test, training=kept, predicted=predicted)
    metrics: Metrics = dict.fromkeys(evaluation.OF_STARS) if prepared.implicit else {}
    metrics |= evaluation.overall(measures)
    log.info(
        "holdout: %s",
        ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if value is not None),
    )
    return metrics


def _split(night: Night, held: NDArray[np.bool_], *, n_users: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The ratings outside the holdout and in it, of the users whom the model knows; every column in one
    piece."""
    files = night.files("ratings")
    parts: dict[bool, list[pl.DataFrame]] = {False: [], True: []}
    at = 0
    try:
        for block in TableFile(files, columns=[*LEARNT, "timestamp"]).blocks(_AT_ONCE):
            known = (block["user_idx"] < n_users).to_numpy()
            in_it = held[at : at + block.height]
            for which, found in parts.items():
                found.append(block.filter(known & (in_it == which)))
            at += block.height
    except DamagedFile as error:
        raise night.damaged(files[0], error) from error
    kept, test = (_joined(found) for found in parts.values())
    return kept, test


def _joined(parts: list[pl.DataFrame]) -> pl.DataFrame:
    """Frames below each other, column after column, each of which leaves the parts: they are not held
    twice."""
    columns = []
    for name in parts[0].columns:
        columns.append(pl.concat([part[name] for part in parts], rechunk=True))
        parts[:] = [part.drop(name) for part in parts]
    return pl.DataFrame(columns)


def sampled(user_ids: pl.Series, *, seed: int) -> NDArray[np.int64]:
    """Rows of the users whose lists are measured, ascending: drawn by their ids, so that those who are there
    every night are drawn every night."""
    if user_ids.len() <= MEASURED_USERS:
        return np.arange(user_ids.len())
    drawn = np.argsort(user_ids.hash(seed).to_numpy(), kind="stable")
    return np.sort(drawn[:MEASURED_USERS])


def _of_users(ratings: pl.DataFrame, users: NDArray[np.int64], *, n_users: int) -> pl.DataFrame:
    """The ratings of some users, ascending, whose rows are counted anew."""
    row = np.full(n_users, -1, np.int32)
    row[users] = np.arange(users.size, dtype=np.int32)
    user = row[ratings["user_idx"].to_numpy()]
    there = user >= 0
    return ratings.filter(there).with_columns(pl.Series("user_idx", user[there]))


def compared(night: Night, prepared: Prepared, metrics: Metrics) -> list[Comparison]:
    """What the gate looks at: metrics and counts against the limits,
    popularity and the last published night."""
    last = runs.last(night.output, before=night.run_date)
    scale = Scale(*prepared.scale) if prepared.scale else None
    config = as_decided(night, prepared)
    of_input = input_comparisons(night.config, config, last)
    return of_input + comparisons(config, metrics=metrics, counts=prepared.counts, last=last, scale=scale)


def gate(night: Night, metrics: Metrics, compared: Sequence[Comparison]) -> str:
    """The verdict of the gate, for the record. Raises GateRefused when the night must not be published."""
    reasons = refusals(compared)
    if not reasons:
        return (
            "existing model"
            if night.inputs.model
            else "passed"
            if any(metrics.get(name) is not None for name in ("rmse", f"ndcg_at_{evaluation.K}"))
            else "no holdout"
        )
    if night.config.gate_override:
        log.warning("the gate refused, overridden: %s", "; ".join(reasons))
        return "overridden: " + "; ".join(reasons)
    raise GateRefused(
        f"the gate refused: {'; '.join(reasons)}; the published tables are as they were (gate_override=true publishes all the same)"
    )


def gated(night: Night, prepared: Prepared, metrics: Metrics) -> str:
    """The gate over all that it compares; see `gate`."""
    return gate(night, metrics, compared(night, prepared, metrics))
