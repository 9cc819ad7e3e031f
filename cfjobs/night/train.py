"""The stage that trains: both networks on the ratings outside the holdout, or on all; the model is saved."""

import logging
import math
from dataclasses import replace
from typing import Any

import polars as pl
import torch

from cfjobs import model_store, resources, storage, training
from cfjobs.compiled import counted
from cfjobs.device import resolve_device, under_torchrun
from cfjobs.lists.blend import Blend
from cfjobs.model_store.files import Model
from cfjobs.night import choose, torchrun, warm_start
from cfjobs.night.records import LEARNT, Night, On, Prepared, Trained, as_decided, trained_already
from cfjobs.night.split import held_out
from cfjobs.ratings import catalogue
from cfjobs.tables import runs
from cfjobs.training import footprint
from cfjobs.training.distributed import current
from cfjobs.training.fit import Progress

log = logging.getLogger(__name__)


def fit(
    night: Night,
    prepared: Prepared,
    *,
    on: On,
    stop_fraction: float = 1.0,
    progress: Progress | None = None,
) -> Trained:
    """Train on the ratings outside the holdout, or on all, and save the model."""
    if (done := trained_already(night, on=on)) and model_store.is_whole(done.model_uri):
        return done
    config = as_decided(night, prepared)
    _check_memory(night, prepared)
    order = _order(night, prepared, on=on, stop_fraction=stop_fraction)
    if config.processes > 1 and not under_torchrun():
        torchrun.run(order, processes=config.processes, progress=progress)
        done = trained_already(night, on=on)
        assert done is not None  # torchrun ended well
        return done
    with torchrun.leading(order):
        task, fitted = _fitted(night, prepared, on=on, stop_fraction=stop_fraction, progress=progress)
    uri = _model_uri(night, on=on)
    user_table, movie_table, encodings = described(night, prepared)
    users = _with_counts(user_table, task.kept["user_idx"])
    movies = _with_counts(movie_table, task.kept["movie_idx"])
    blend = _blend(night, task)
    model = Model(
        fitted.network,
        fitted.ranking,
        config,
        users,
        movies,
        encodings,
        blend.weight,
        training=fitted.training,
    )
    if on == "all" or not config.refit:
        model = replace(model, profile=training.fit_profile(task, device=resolve_device(config.device)))
    refit_from = config.steady if on == "all" else config.refit
    gone_on_from = config.warm_start or (config.warm_refit and refit_from)
    model_store.save_model(uri, model, for_warm_start=gone_on_from)
    if config.warm_start and on == "train":
        warm_start.keep_until(uri, night, task.kept)
    losses = [
        (e.epoch, e.train_loss, None if math.isnan(e.valid_loss) else e.valid_loss) for e in fitted.record
    ]
    return night.done(
        f"trained-{on}",
        Trained(
            model_uri=uri,
            fraction=fitted.fraction,
            losses=losses,
            training=fitted.training,
            warm_from=task.start.model_uri,
            blend=blend,
        ),
    )


def _check_memory(night: Night, prepared: Prepared) -> None:
    """Say what the training takes before it starts. InputError when this machine cannot have as much."""
    needed = footprint.least(
        as_decided(night, prepared),
        ratings=prepared.counts.get("kept", 0),
        users=prepared.n_users,
        movies=prepared.n_movies,
    )
    device = resolve_device(night.config.device)
    on_gpu = device.type == "cuda"
    there = float(torch.cuda.mem_get_info(device)[0]) if on_gpu else resources.memory_left()
    log.info("training takes %.2f GB at least, %.2f GB are left", needed / 1e9, there / 1e9)
    footprint.check_fits(needed, there=there, where=f"on {device}" if on_gpu else "to this process")


def _blend(night: Night, task: training.Task) -> Blend:
    """How much the lists go by predicted stars: chosen for the night's first training,
    and the same for its refit."""
    if task.config.rank_by != "blend":
        return Blend(weight=0.0)
    first = trained_already(night, on="train")
    if first:
        return first.blend
    last = runs.last(night.output, before=night.run_date) if night.config.steady else None
    return choose.choose(
        task,
        device=resolve_device(night.config.device),
        last=last.metrics.get("stars_weight") if last else None,
    )


def _fitted(
    night: Night,
    prepared: Prepared,
    *,
    on: On,
    stop_fraction: float,
    progress: Progress | None = None,
) -> tuple[training.Task, training.Fitted]:
    """Both networks, fitted by this process and those beside it; rank 0 alone leaves checkpoints."""
    config = as_decided(night, prepared)
    columns = [*LEARNT, "timestamp"] if config.warm_start else LEARNT
    kept = night.frame("ratings", columns)
    valid = kept.clear()
    if on == "train":
        held = held_out(night)
        kept, valid = kept.filter(~held), kept.filter(held)
    kept = kept.rechunk()  # or each column that is wanted as one array is a copy
    user_table, movie_table, encodings = described(night, prepared)
    task = training.Task(
        config,
        n_users=prepared.n_users,
        n_movies=prepared.n_movies,
        y_range=prepared.y_range,
        question=prepared.question,
        kept=kept,
        user_features=catalogue.encoded(user_table, encodings.users),
        movie_features=catalogue.encoded(movie_table, encodings.movies),
        valid=valid,
        stop_fraction=stop_fraction,
        start=warm_start.start_of(night, prepared, on=on, valid=valid),
    )
    device, processes = resolve_device(config.device), current()
    kit = training.Kit(
        device,
        processes=processes,
        rating=night.checkpoints(f"{on}-rating", write=processes.rank == 0),
        ranking=night.checkpoints(f"{on}-ranking", write=processes.rank == 0),
        progress=progress,
    )
    return task, training.fit_networks(task, kit)


def described(night: Night, prepared: Prepared) -> tuple[pl.DataFrame, pl.DataFrame, catalogue.Encodings]:
    """The users and movies of the night by row, and how their side features become numbers."""
    users, movies = night.frame("users").head(prepared.n_users), night.frame("movies")
    return users, movies, catalogue.encodings(night.config, movies=movies, users=users)


def _order(night: Night, prepared: Prepared, *, on: On, stop_fraction: float) -> dict[str, Any]:
    """A training as JSON, for another process."""
    return {
        "night": night.model_dump(mode="json"),
        "prepared": prepared.model_dump(mode="json"),
        "on": on,
        "stop_fraction": stop_fraction,
    }


def lead(order: dict[str, Any], *, progress: Progress | None = None) -> Trained:
    """Do the training of an order, with the processes beside this one."""
    night, prepared = Night.model_validate(order["night"]), Prepared.model_validate(order["prepared"])
    return fit(night, prepared, on=order["on"], stop_fraction=order["stop_fraction"], progress=progress)


def follow(order: dict[str, Any]) -> None:
    """Train beside rank 0, which keeps the result."""
    night, prepared = Night.model_validate(order["night"]), Prepared.model_validate(order["prepared"])
    _fitted(night, prepared, on=order["on"], stop_fraction=order["stop_fraction"])


def _model_uri(night: Night, *, on: On) -> str:
    """Where a model goes: beside the tables when it is published or gone on from,
    else into the work folder."""
    if on == "all" or not night.config.refit:
        return storage.join(night.output, "models", night.run_id)
    return warm_start.measured_uri(night) if night.config.warm_start else storage.join(night.work, "model")


def existing(night: Night) -> Trained:
    """The night's existing model, as a training's record. Raises DamagedFile when it is not whole."""
    assert night.inputs.model is not None
    model_store.check(night.inputs.model)
    return Trained(model_uri=night.inputs.model, fraction=1.0, losses=[])


def _with_counts(ids: pl.DataFrame, idx: pl.Series) -> pl.DataFrame:
    return ids.with_columns(pl.Series("n_ratings", counted(idx.to_numpy(), ids.height)))
