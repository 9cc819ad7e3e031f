"""A search over the settings: which ones would have served best,
judged before the night's own holdout is looked at.

    ratings  =  [ learn | judge ] | holdout
                 the training part    never looked at

The night's holdout is taken away first, as every night does. What is left, the training part, is split once
more in the same way; each trial learns from `learn` and is measured on `judge`. So the figure that the night
reports for the chosen settings is as honest as before. Optuna's TPE sampler (Bergstra and others, 2011)
proposes the settings from the trials so far; every trial is a line of a journal file, from which an
interrupted search goes on.
"""

import hashlib
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl

from cfjobs import evaluation, lists, models, storage, training
from cfjobs.config import Config, as_toml, validated
from cfjobs.device import resolve_device
from cfjobs.errors import InputError, TrainingDiverged
from cfjobs.features import Features
from cfjobs.model_store.files import Model
from cfjobs.models.network import Network
from cfjobs.models.ranker import RankingModel
from cfjobs.night import story
from cfjobs.night.records import Night, Prepared
from cfjobs.ratings import catalogue, holdout

if TYPE_CHECKING:
    import optuna


log = logging.getLogger(__name__)

Objective = Literal["rmse", "ndcg"]
"""What a trial is judged by: holdout RMSE of the rating network, least, or nDCG@10 of the lists, greatest."""


@dataclass(frozen=True)
class Tuned:
    """What a search found. improvement: of the objective over the configuration it began with, 0.01 = 1 %."""

    objective: Objective
    best: float
    first: float
    trials: int
    settings: dict[str, Any]
    config: Config
    config_uri: str

    @property
    def improvement(self) -> float:
        sign = -1 if self.objective == "rmse" else 1
        return sign * (self.best - self.first) / self.first + 0.0  # not -0.0


@dataclass(frozen=True)
class Judge:
    """The inner split of the training part. kept, valid: user_idx, movie_idx, rating, timestamp,
    by user and time."""

    prepared: Prepared
    kept: pl.DataFrame
    valid: pl.DataFrame
    users: pl.DataFrame
    movies: pl.DataFrame
    user_features: Features | None = None
    movie_features: Features | None = None

    def rmse(self, config: Config) -> float:
        """RMSE of the rating network, at its best epoch."""
        rating_only = config.model_copy(update={"rank_by": "rating"})
        fitted = training.fit_networks(self._task(rating_only), self._kit(config))
        return math.sqrt(min(epoch.valid_loss for epoch in fitted.record))

    def ndcg(self, config: Config) -> float:
        """nDCG@10 of the lists, whatever orders them."""
        config = config.model_copy(update={"feedback": self.prepared.feedback})
        task, kit = self._task(config), self._kit(config)
        network: Network | None
        ranking: RankingModel | None
        if config.rank_by != "rating":  # affinity alone: the weight of the stars is each night's own choice
            network = None if self.prepared.implicit else training.new_network(task).to(kit.device)
            ranking = training.fit_ranking_model(task, kit)
        else:
            fitted = training.fit_networks(task, kit)
            network, ranking = fitted.network, None
        model = Model(network, ranking, config, self.users, self.movies)
        n_users = self.prepared.n_users
        found = evaluation.list_metrics(
            lists.best(lists.request_of(model, self.kept, users=range(n_users)), n=evaluation.K),
            evaluation.Holdout(
                *(self.valid[name].to_numpy() for name in ("user_idx", "movie_idx", "rating"))
            ),
            relevant_rating=training.relevant_rating(config, y_range=self.prepared.y_range),
            n_users=n_users,
            n_candidates=int(lists.candidates(model).sum()),
        )
        return found[f"ndcg_at_{evaluation.K}"]

    def _task(self, config: Config) -> training.Task:
        prepared = self.prepared
        return training.Task(
            config,
            prepared.n_users,
            prepared.n_movies,
            prepared.y_range,
            self.kept,
            self.valid,
            question=prepared.question,
            user_features=self.user_features,
            movie_features=self.movie_features,
        )

    def _kit(self, config: Config) -> training.Kit:
        return training.Kit(resolve_device(config.device))


def judge(night: Night) -> Judge:
    """The training part of a night, split once more in the same way.
    Raises InputError where nothing is left to judge by."""
    prepared = story.prepare(night)
    story.hold_out(night, prepared)
    config = night.config
    frame = night.frame("ratings").filter(~night.frame("holdout")["held_out"])
    if holdout.kind_of(config, prepared.question) == "random":
        inner = holdout.random_holdout(frame.height, fraction=config.holdout_fraction, seed=config.seed + 1)
    else:
        inner = holdout.temporal_holdout(frame["user_idx"].to_numpy(), fraction=config.holdout_fraction)
    if not inner.any():
        raise InputError(
            "ratings: no user has enough of them to judge a trial by; raise holdout_fraction, or bring more ratings"
        )
    kept, valid = frame.filter(~inner), frame.filter(inner)
    users, movies, encodings = story.described(night, prepared)
    return Judge(
        prepared,
        kept,
        valid,
        _counted(users, kept["user_idx"]),
        _counted(movies, kept["movie_idx"]),
        catalogue.encoded(users, encodings.users),
        catalogue.encoded(movies, encodings.movies),
    )


def tune(
    night: Night,
    *,
    objective: Objective,
    trials: int,
    timeout: float | None = None,
    folder: str,
    on_trial: Callable[[int, float, float], None] | None = None,
) -> Tuned:
    """Search until there are `trials` of them in all, or for `timeout` seconds,
    and write the best as a TOML file.

    folder: URI of the journal and the result; a search with the same objective, data and
    configuration goes on from the trials in it. on_trial(number, value, best) is called after each.
    Raises InputError when Optuna is not installed.
    """
    library = _optuna()
    judged = judge(night)
    if judged.prepared.implicit and (objective == "rmse" or night.config.rank_by == "rating"):
        raise InputError(
            "tune: no stars are predicted from implicit feedback; use --objective ndcg, and leave rank_by at affinity or blend"
        )
    measure = judged.rmse if objective == "rmse" else judged.ndcg
    name = _name(night, objective)
    begin = spelled_out(night.config, n_ratings=judged.kept.height)
    with _journal(storage.join(folder, f"{name}.journal")) as (file, upload):
        study = library.create_study(
            study_name=name,
            storage=library.storages.JournalStorage(library.storages.journal.JournalFileBackend(str(file))),
            direction="minimize" if objective == "rmse" else "maximize",
            load_if_exists=True,
        )
        if not study.trials:
            study.enqueue_trial(own_settings(begin, objective))

        def run(trial: "optuna.trial.Trial") -> float:
            config = with_settings(night.config, proposed(trial, begin, objective))
            try:
                return measure(config)
            except TrainingDiverged as error:
                raise library.TrialPruned(str(error)) from error

        def on_end(study: "optuna.Study", trial: "optuna.trial.FrozenTrial") -> None:
            upload()
            value = math.nan if trial.value is None else trial.value
            best = study.best_value if _completed(study) else math.nan
            log.info("trial %d: %s %.4f, best %.4f, %s", trial.number, objective, value, best, trial.params)
            if on_trial:
                on_trial(trial.number, value, best)

        _search(study, run, on_end, trials=trials, timeout=timeout, seed=night.config.seed)
        return _result(study, night, objective, storage.join(folder, f"{objective}.toml"))


def _search(
    study: "optuna.Study",
    run: Callable[["optuna.trial.Trial"], float],
    on_end: Callable[["optuna.Study", "optuna.trial.FrozenTrial"], None],
    *,
    trials: int,
    timeout: float | None,
    seed: int,
) -> None:
    """Trials one after the other; each has the sampler's seed of its number,
    so that a resumed search proposes alike."""
    library = _optuna()
    began = time.monotonic()
    while (done := _n_done(study)) < trials:
        if timeout is not None and time.monotonic() - began >= timeout:
            break
        study.sampler = library.samplers.TPESampler(seed=seed + done)
        study.optimize(run, n_trials=1, callbacks=[on_end])


def _result(study: "optuna.Study", night: Night, objective: Objective, uri: str) -> Tuned:
    """The best trial, written as a configuration file."""
    if not _completed(study):
        raise InputError(
            "tune: no trial was completed; give more --timeout, or a lower learning_rate to begin with"
        )
    best, first = study.best_trial, _completed(study)[0]
    config = with_settings(night.config, best.params)
    assert best.value is not None
    assert first.value is not None
    header = f"# Found by `cfjobs tune --objective {objective}`: {best.value:.4f} after {_n_done(study)} trials, {first.value:.4f} to begin with.\n\n"
    storage.write_bytes(uri, (header + as_toml(config)).encode())
    return Tuned(objective, best.value, first.value, _n_done(study), best.params, config, uri)


# The settings ------------------------------------------------------------------------------------------


def proposed(trial: "optuna.trial.Trial", config: Config, objective: Objective) -> dict[str, Any]:
    """A trial's settings, around the ones that the configuration has."""
    return {
        name: trial.suggest_categorical(name, setting)
        if isinstance(setting, list)
        else trial.suggest_int(name, setting.low, setting.high, log=True)
        if isinstance(setting.low, int)
        else trial.suggest_float(name, setting.low, setting.high, log=setting.log)
        for name, setting in space(config, objective).items()
    }


@dataclass(frozen=True)
class Range:
    """Bounds of a setting, both included; integers are searched on a logarithmic scale."""

    low: Any
    high: Any
    log: bool = True


def space(config: Config, objective: Objective) -> dict[str, Range | list[int]]:
    """What is searched around a configuration that is spelled out, by the setting's name.
    Only settings that the objective depends on."""
    if objective == "ndcg" and config.rank_by != "rating":
        return {
            "ranking_factors": [32, 64, 128, 256],
            "ranking_steps": Range(200, 3_200),
            "ranking_learning_rate": Range(0.001, 0.03),
            "recency_half": Range(1.0, 30.0),
            "taste": Range(0.0, 1.0, log=False),
            "history_dropout": Range(0.0, 0.8, log=False),
        }
    rate, l2 = config.learning_rate or 0.01, max(config.l2 or 0.0, 1e-4)
    length = "steps" if config.steps else "epochs"
    n = getattr(config, length) or 1
    return {
        "n_factors": [16, 32, 64, 128],
        "learning_rate": Range(rate / 5, rate * 5),
        "l2": Range(l2 / 10, l2 * 5),
        length: Range(max(1, n // 2), n * 2),
        "y_padding": Range(0.02, 1.5),
    }


def spelled_out(config: Config, *, n_ratings: int) -> Config:
    """The configuration with the rating network's settings as this many ratings have them, where it leaves
    them open."""
    training = models.training_of(config, device=resolve_device(config.device).type)
    plan = models.plan(config, n_ratings=n_ratings, training=training)
    settings: dict[str, Any] = {"learning_rate": plan.learning_rate, "l2": plan.l2}
    if training == "blocked_sgd" or config.epochs:
        settings["epochs"] = plan.epochs
    else:
        settings["steps"] = config.steps or models.recipe_of(config).steps
    return config.model_copy(update=settings)


def own_settings(config: Config, objective: Objective) -> dict[str, Any]:
    """The configuration's own values of the searched settings, which are the first trial;
    those out of range are left open."""
    return {
        name: value
        for name, setting in space(config, objective).items()
        if (value := getattr(config, name)) is not None
        and (value in setting if isinstance(setting, list) else _within(value, setting))
    }


def _within(value: Any, setting: Range) -> bool:
    return not isinstance(value, str) and setting.low <= value <= setting.high


def with_settings(config: Config, settings: dict[str, Any]) -> Config:
    """The configuration with these settings."""
    return validated(config.model_dump() | settings)


# The journal ----------------------------------------------------------------------------------------


@contextmanager
def _journal(uri: str) -> Iterator[tuple[Path, Callable[[], None]]]:
    """The journal as a local file, and what sends it to its URI; on a disk it is the file itself."""
    if not storage.is_s3(uri):
        Path(uri).parent.mkdir(parents=True, exist_ok=True)
        yield Path(uri), lambda: None
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "journal"
        if storage.exists(uri):
            file.write_bytes(storage.read_bytes(uri))
        yield file, lambda: storage.write_bytes(uri, file.read_bytes())


def _name(night: Night, objective: Objective) -> str:
    """Names equal searches: same objective, files and configuration, whatever the date."""
    inputs = storage.read_bytes(storage.join(night.work, "inputs.json")).decode()
    settings = night.config.model_dump_json(exclude={"checkpoint_seconds"})
    return f"{objective}-{hashlib.sha256((inputs + settings).encode()).hexdigest()[:16]}"


def _completed(study: "optuna.Study") -> "list[optuna.trial.FrozenTrial]":
    return study.get_trials(deepcopy=False, states=[_optuna().trial.TrialState.COMPLETE])


def _n_done(study: "optuna.Study") -> int:
    """Trials that came to an end; one that was killed is not counted."""
    return sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise InputError(
            "tune: Optuna is not installed; pip install 'cfjobs[tune]', on the machine that searches"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _counted(ids: pl.DataFrame, idx: pl.Series) -> pl.DataFrame:
    return ids.with_columns(pl.Series("n_ratings", np.bincount(idx.to_numpy(), minlength=ids.height)))
