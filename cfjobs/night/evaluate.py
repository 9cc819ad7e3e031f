"""The stage that measures a model on the holdout, and the gate that looks at the figures."""

import logging
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from cfjobs import evaluation, lists, model_store, storage, training
from cfjobs.device import resolve_device
from cfjobs.errors import GateRefused
from cfjobs.evaluation.gate import Comparison, Scale, comparisons, input_comparisons, refusals
from cfjobs.evaluation.list_baselines import rivals
from cfjobs.model_store.slices import ModelSlices
from cfjobs.models.predict import predict
from cfjobs.night import side_tables
from cfjobs.night.pieces import Each
from cfjobs.night.records import LEARNT, Metrics, Night, Prepared, Trained, as_decided
from cfjobs.night.split import held_out
from cfjobs.storage.parquet import TableFile, parquet_bytes
from cfjobs.tables import runs
from cfjobs.topn.problem import Lists

log = logging.getLogger(__name__)


def measure(night: Night, prepared: Prepared, trained: Trained, *, each: Each | None = None) -> Metrics:
    """Holdout metrics of a model that has not seen the holdout; all None without one.

    each: makes the lists, which take most of the time, for the users of each file of the ratings.
    """
    held = held_out(night)
    if not held.any():
        return dict.fromkeys(evaluation.NAMES)
    config = as_decided(night, prepared)
    model = model_store.load_model(trained.model_uri).to(resolve_device(config.device))
    known = pl.col("user_idx") < prepared.n_users
    every = night.frame("ratings").with_columns(pl.Series("held_out", held)).filter(known)
    kept = every.filter(~pl.col("held_out")).select(*LEARNT, "timestamp")
    test = every.filter("held_out").drop("held_out")
    del every
    predicted = None
    if model.stars is not None:
        test_examples = training.examples(test, model.device)
        predicted = predict(model.stars, test_examples.user_idx, test_examples.movie_idx).cpu().numpy()

    def stars(user_idx: NDArray[np.int64], movie_idx: NDArray[np.int64]) -> NDArray[np.float32]:
        rows = (torch.from_numpy(idx).to(model.device) for idx in (user_idx, movie_idx))
        return predict(model.network, *rows).cpu().numpy()

    ours: Iterator[Lists]
    popular: Iterator[Lists]
    if each is None:
        request = lists.request_of(model, kept, users=range(prepared.n_users))
        ours = lists.best(request, n=evaluation.K)
        popular = lists.popular(model, request.seen, n=evaluation.K)
    else:
        ours, popular = _lists_in_pieces(night, trained, each)
    measures = evaluation.measures(
        holdout=evaluation.Holdout.of(test),
        training=evaluation.Holdout.of(kept),
        predicted=predicted,
        lists=ours,
        popular=popular,
        relevant_rating=training.relevant_rating(config, y_range=prepared.y_range),
        candidates=lists.candidates(model),
        n_users=prepared.n_users,
        seed=config.seed,
        predict=None if model.stars is None else stars,
        traits=side_tables.traits(model),
        rivals=rivals(
            kept,
            test["user_idx"].unique().sort().to_numpy(),
            ordered=prepared.question == "next",
            k=evaluation.K,
            seed=config.seed,
        ),
    )
    side_tables.keep_measures(night, measures, held_out=test, training=kept, predicted=predicted)
    metrics: Metrics = dict.fromkeys(evaluation.OF_STARS) if prepared.implicit else {}
    metrics |= evaluation.overall(measures)
    log.info(
        "holdout: %s",
        ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if value is not None),
    )
    return metrics


def _lists_in_pieces(night: Night, trained: Trained, each: Each) -> tuple[Iterator[Lists], Iterator[Lists]]:
    """The model's and the popularity lists of all users, made for the users of each file of the ratings."""
    starts = each(partial(_make_lists, night, trained), night.files("ratings"), words="lists to be measured")

    def read(column: str) -> Iterator[Lists]:
        for start, uri in zip(starts, night.files("lists"), strict=True):
            movies = TableFile(uri, columns=[column])
            movie_idx = movies.rows(0, movies.n_rows)[column].to_numpy()
            yield Lists(start, movie_idx, np.zeros(movie_idx.shape, np.float32))

    return read("ours"), read("popular")


def _make_lists(night: Night, trained: Trained, uri: str) -> int:
    """Write the first movies of the users of a file of the ratings. Returns the first user's row."""
    frame = _whole(uri, LEARNT)
    held = _whole(storage.join(night.work, night.beside(uri, "holdout")), ["held_out"])["held_out"]
    users = range(int(frame["user_idx"][0]), int(frame["user_idx"][-1]) + 1)
    kept = frame.filter(~held).with_columns((pl.col("user_idx") - users.start).cast(pl.Int32))
    model = ModelSlices(trained.model_uri, device=resolve_device(night.config.device)).of_users(users)
    request = lists.request_of(model, kept, users=range(len(users)))
    found = {
        "ours": lists.best(request, n=evaluation.K, threads=night.config.threads),
        "popular": lists.popular(model, request.seen, n=evaluation.K),
    }
    movies = {
        name: pl.Series(
            evaluation.first_k(of, n_users=len(users), k=evaluation.K),
            dtype=pl.Array(pl.Int32, evaluation.K),
        )
        for name, of in found.items()
    }
    night.write(night.beside(uri, "lists"), parquet_bytes(pl.DataFrame(movies)))
    return users.start


def _whole(uri: str, columns: list[str]) -> pl.DataFrame:
    file = TableFile(uri, columns=columns)
    return file.rows(0, file.n_rows)


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
