"""Questions about training that publish nothing: which settings, which learning rate.
Their night lives in a temporary folder."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any, get_args

import torch

from cfjobs import storage, training
from cfjobs.config import Config
from cfjobs.device import resolve_device
from cfjobs.errors import InputError
from cfjobs.experiments import lr_find, tune
from cfjobs.night import story
from cfjobs.night.records import Inputs, Night
from cfjobs.ratings import catalogue


def tuned(
    inputs: Inputs,
    *,
    output: str,
    objective: str,
    trials: int,
    timeout: float | None,
    run_date: date | None,
    config: Config,
    on_trial: Callable[[int, float, float], None] | None = None,
) -> dict[str, Any]:
    """Search for better settings under OUTPUT/tune; the result as a record."""
    if objective not in (allowed := get_args(tune.Objective)):
        raise InputError(f"--objective: got {objective!r}, expected {' or '.join(allowed)}")
    output = storage.normal(output)
    storage.check_writable(output)
    with _passing_night(inputs, run_date, config) as night:
        found = tune.tune(
            night,
            objective=objective,  # type: ignore[arg-type]  # one of those allowed
            trials=trials,
            timeout=timeout,
            folder=storage.join(output, "tune"),
            on_trial=on_trial,
        )
    return {
        "config": found.config_uri,
        "objective": found.objective,
        "best": found.best,
        "first": found.first,
        "improvement": found.improvement,
        "trials": found.trials,
        "settings": found.settings,
    }


def learning_rates_tried(
    inputs: Inputs, *, svg: Path, steps: int, run_date: date | None, config: Config
) -> dict[str, Any]:
    """Try rising learning rates, write the plot, and return the points and the suggestions."""
    with _passing_night(inputs, run_date, config) as night:
        prepared = story.prepare(night)
        if prepared.implicit:
            raise InputError(
                "lr-find: tries the rating network, and the ratings are implicit feedback, which trains none; tune ranking_learning_rate with `cfjobs tune`"
            )
        story.hold_out(night, prepared)
        user_table, movie_table, encodings = story.described(night, prepared)
        kept = night.frame("ratings").filter(~night.frame("holdout")["held_out"])
    task = training.Task(config, prepared.n_users, prepared.n_movies, prepared.y_range, kept, kept.head(0))
    device: torch.device = resolve_device(config.device)
    network = training.new_network(task).to(device)
    network.describe(
        users=catalogue.encoded(user_table, encodings.users),
        movies=catalogue.encoded(movie_table, encodings.movies),
    )
    found = lr_find.find(network, training.examples(kept, device), config=config, steps=steps)
    storage.write_bytes(storage.normal(svg), lr_find.chart(found).file().encode())
    return {
        "valley": found.valley,
        "steepest": found.steepest,
        "network": config.model,
        "learning_rate_now": found.now,
        "steps": len(found.points),
        "diverged": found.diverged,
        "svg": str(svg),
        "points": [asdict(point) for point in found.points],
        "sketch": lr_find.sketch(found),
    }


@contextmanager
def _passing_night(inputs: Inputs, run_date: date | None, config: Config) -> Iterator[Night]:
    """A night whose folder is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="cfjobs-") as folder:
        yield story.start(inputs, output=folder, run_date=run_date, config=config)
