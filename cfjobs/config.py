"""Every setting of the night, in one place: name, default, bound, and why it is there.

The same model is the parameter of the Prefect flow (its run form shows and checks it), the TOML file and
`--set KEY=VALUE` of the command line.
"""

import difflib
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cfjobs.errors import InputError

GROUPS = {
    "user_column": "Input",
    "model": "Network",
    "training": "Training",
    "rank_by": "Ranking",
    "holdout": "Holdout and gate",
    "top_n": "Scoring",
    "device": "Machine",
}
"""The first setting of each group, in the order of `Config`."""


def _grouped(schema: dict[str, Any]) -> None:
    """Let a form show the settings by group, in order, and first the one that is looked for at night."""
    group = ""
    for position, (name, field) in enumerate(schema["properties"].items(), start=1):
        group = GROUPS.get(name, group)
        field |= {"title": f"{group}: {name}", "position": 0 if name == "gate_override" else position}


class Config(BaseModel):
    """Configuration of one night."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=_grouped)

    # Input -----------------------------------------------------------------------------------------
    user_column: str = Field(
        "user_id",
        min_length=1,
        description="Column of the ratings and users files that holds the user. Here and below, a column under another usual name (userId, item_id, stars, ts) is recognised where the default is not there.",
    )
    movie_column: str = Field(
        "movie_id", min_length=1, description="Column of the ratings and movies files that holds the movie."
    )
    rating_column: str = Field(
        "rating", min_length=1, description="Column of the ratings files that holds the rating."
    )
    timestamp_column: str | None = Field(
        "timestamp",
        min_length=1,
        description="Column of the ratings files that says when: a datetime, or seconds (or milliseconds) since 1970. The latest rating of a pair wins. Without it (null, or no file has the column) the ratings have no times: the lists answer what else belongs in a profile, and of a pair's ratings the highest wins.",
    )
    feedback: Literal["auto", "ratings", "implicit"] = Field(
        "auto",
        description="What the ratings files hold: ratings, with values; or implicit feedback, such as clicks, purchases or plays: who chose what, from which no stars can be predicted, so the lists go by affinity alone and values are left aside. auto is implicit where weight_column or event_column is set, where no file has the rating column, or where all ratings have one value, unless y_range says what the scale is.",
    )
    weight_column: str | None = Field(
        None,
        min_length=1,
        description="Column of implicit feedback that says how strongly a row counts in the ranking loss, such as plays: 0 or more; those of a pair are added up, and measured against the user's mean. Without it every row counts 1.",
    )
    event_column: str | None = Field(
        None,
        min_length=1,
        description="Column of implicit feedback that says what happened, such as view or purchase; needs event_weights.",
    )
    event_weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        {},
        description="What a row of each event counts, such as {view = 1, cart = 3, purchase = 5}, times its weight where weight_column is set. 0 leaves the event out; a row with an event that is not here is rejected.",
    )
    available_from_column: str | None = Field(
        "available_from",
        min_length=1,
        description="Column of the movies table with the first day on which a movie may be listed, a date or a datetime (its day in UTC); without a value there is no first day. A movie that is not available on the night's date is trained on and listed nowhere. null looks for no such column.",
    )
    available_until_column: str | None = Field(
        "available_until",
        min_length=1,
        description="Column of the movies table with the last day on which a movie may be listed, itself included; as available_from_column.",
    )
    boost_column: str | None = Field(
        "boost",
        min_length=1,
        description="Column of the movies table with a number that is added to a movie's score in the lists of the model; negative ones push it down, and a movie without a value stays as it is. Popularity lists are left alone. null looks for no such column.",
    )
    pinned_column: str | None = Field(
        "pinned_rank",
        min_length=1,
        description="Column of the movies table with a place, 1 or more, at which a movie stands in every list of a user who may get it; of several at one place the next takes the next free one. null looks for no such column.",
    )
    max_rejected: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Largest share of rejected rows that a night accepts; above it the input is taken for broken.",
    )

    # Network ---------------------------------------------------------------------------------------
    model: str = Field(
        "dot_raters",
        description="Network that predicts ratings: a file of cfjobs/models/networks (dot_raters; the lesson's dot, dot_bias, net), or a module of yours, package.module (see cfjobs/models/README.md).",
    )
    n_factors: int = Field(64, ge=1, le=4096, description="Length of a user's and of a movie's embedding.")
    init: Literal["uniform", "normal", "kaiming"] = Field(
        "uniform",
        description="Initial embeddings: the network's own range (the lesson's uniform one), normal, or Kaiming-normal.",
    )
    init_std: float = Field(
        0.01, gt=0, le=10, description="Standard deviation of the initial embeddings when init = normal."
    )
    ensemble: int = Field(
        1,
        ge=1,
        le=64,
        description="Members of model = dot_raters, trained side by side from different starts; costs in proportion.",
    )
    max_raters: int = Field(
        256,
        ge=0,
        description="Raters of a movie that model = dot_raters sums over, a random choice where there are more, and likewise movies that a user rated, the most popular ones, where ratings are enough and not too many (at most 4 million pairs each); 0 leaves the sums out.",
    )
    hidden: tuple[int, ...] | None = Field(
        None, description="Widths of the hidden layers of model = net; without it, the network's own."
    )
    dropout: tuple[float, float] | None = Field(
        None,
        description="Dropout of model = net: after the embeddings, and after each hidden layer; without it, the network's own.",
    )
    y_range: tuple[float, float] | None = Field(
        None,
        description="Lowest and highest rating; without it, those of the training ratings.",
    )
    y_padding: float | Literal["learned"] = Field(
        0.5,
        description="How far the sigmoid's range reaches beyond y_range on each side, in stars, so that the ends can be predicted; 'learned' makes both sides parameters of the network.",
    )

    movie_features: tuple[str, ...] = Field(
        (),
        description="Columns of the movies table that describe a movie to the networks, such as genres: text (categories, several divided by |), lists, booleans, numbers. With them, movies without ratings can be listed.",
    )
    user_features: tuple[str, ...] = Field(
        (),
        description="Columns of the users table that describe a user to the rating network; as movie_features.",
    )

    # Training --------------------------------------------------------------------------------------
    training: Literal["auto", "blocked_sgd", "minibatch"] = Field(
        "auto",
        description="How the rating network is trained: blocked_sgd, a rating at a time on a processor (model = dot_raters), several times faster; or minibatch, by an optimiser on any device. auto is blocked_sgd unless the model, a GPU, several processes, side features, a learned y_padding or a setting of minibatch (optimizer, momentum, weight_decay, schedule, steps, batch_size) asks for minibatch.",
    )
    optimizer: Literal["auto", "sgd", "adam", "adamw"] = Field(
        "auto",
        description="Optimiser of training = minibatch; auto is adam. sgd uses momentum.",
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="Learning rate; the peak of a one_cycle schedule. Without it, the network's own.",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of sgd; first beta of adam and adamw.")
    weight_decay: float = Field(
        0.0, ge=0, le=10, description="Weight decay, once a step on every parameter (decoupled in adamw)."
    )
    l2: float | None = Field(
        None,
        ge=0,
        le=100,
        description="L2 penalty on the embeddings that an example uses, summed over examples: a frequent user or movie is held as tightly, per rating, as a rare one. Without it, the network's own.",
    )
    schedule: Literal["constant", "one_cycle", "cosine"] = Field(
        "one_cycle",
        description="Learning rate over the steps: constant, one cycle up and down, or cosine with restarts.",
    )
    cycle_len: int = Field(1, ge=1, description="Epochs of the first cosine cycle.")
    cycle_mult: int = Field(2, ge=1, description="Each further cosine cycle is this many times as long.")
    steps: int | None = Field(
        None,
        ge=1,
        description="Optimiser steps in all, whatever the size of the data; without it, the network's own.",
    )
    epochs: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Passes over the training ratings; without it, as many as make `steps`.",
    )
    batch_size: int | None = Field(
        None, ge=1, description="Ratings a step; without it, by the number of ratings, from 256 to 65,536."
    )
    patience: int = Field(
        5, ge=0, description="Stop after this many epochs without a better holdout loss; 0 never stops early."
    )

    warm_start: bool = Field(
        False,
        description="Go on from the last published model of the output, with tonight's users and movies, instead of from random weights; the model is kept larger for it. Without a fitting model, training starts cold and the log says why.",
    )
    warm_share: float = Field(
        0.3,
        gt=0,
        le=1,
        description="Share of the steps of both networks that a warm start or a warm refit takes; of the rating network's, a refit takes 1.7 times as many.",
    )
    checkpoint_seconds: float = Field(
        60.0,
        ge=0,
        description="Seconds between checkpoints of a training in the work folder, from which a killed night goes on; never more than a twentieth of the time goes into them; 0 writes none.",
    )
    processes: int = Field(
        1,
        ge=1,
        le=1024,
        description="Processes that train together, one a GPU, started by torchrun; the total batch stays the same.",
    )

    # Ranking ---------------------------------------------------------------------------------------
    rank_by: Literal["blend", "affinity", "rating"] = Field(
        "blend",
        description="What orders the lists: affinity, the ranking network's guess at what the user chooses next; rating, the predicted stars, which alone rank worse than a popularity list on most data; or blend, affinity + stars_weight x stars, what they would choose and like.",
    )
    stars_weight: float | None = Field(
        None,
        ge=0,
        le=100,
        description="Weight of the predicted stars beside affinity when rank_by = blend; without it, chosen each night on a split of the training ratings.",
    )
    question: Literal["auto", "next", "any"] = Field(
        "auto",
        description="What the lists answer: what the user chooses next, or what else belongs in their profile, whatever the order of their ratings. auto asks for what is next where the ratings have times that put them in order and the holdout is not random.",
    )
    ranking_factors: int = Field(
        128,
        ge=1,
        le=4096,
        description="Length of the ranking network's embeddings; scoring costs in proportion.",
    )
    ranking_steps: int = Field(
        800,
        ge=1,
        le=1_000_000,
        description="Gradient steps of the ranking network, whatever the size of the data.",
    )
    ranking_learning_rate: float = Field(
        0.007,
        gt=0,
        le=10,
        description="Adam's step of the ranking network at the start, with up to 128 users in a step and in proportion to the root of more; it falls to nothing.",
    )
    recency_half: float = Field(
        5.0,
        gt=0,
        description="Ratings back at which a movie of a user's history counts half as much as the latest.",
    )
    taste: float = Field(
        0.3, ge=0, description="How much more a movie of the history counts per star above the user's mean."
    )
    history_dropout: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="Share of the history that is hidden at random in training the ranking network.",
    )

    # Holdout and gate ------------------------------------------------------------------------------
    holdout: Literal["auto", "temporal", "random", "none"] = Field(
        "auto",
        description="Ratings kept from training to measure it: each user's latest, random ones, or none; auto takes what matches the question.",
    )
    holdout_fraction: float = Field(0.2, gt=0, lt=1, description="Share of the ratings that are held out.")
    relevant_rating: float | None = Field(
        None,
        description="A held-out movie counts as relevant from this rating on; without it, from 3/4 of the way up the range (4 of 1..5 and of 0.5..5).",
    )
    refit: bool = Field(
        True, description="After the gate, train again on all ratings, so that the newest count too."
    )
    warm_refit: bool = Field(
        True,
        description="The refit goes on from the model that the holdout measured, for `warm_share` of the steps: a third of the time, RMSE at most 0.3 % above; false begins it anew.",
    )
    steady: bool = Field(
        True,
        description="With warm_refit, the refit goes on from the last published model of an earlier date, where one fits, instead of from tonight's: users whose ratings did not change keep nine of ten movies instead of seven. The model is kept larger for it.",
    )
    gate_max_rmse: float | None = Field(None, gt=0, description="Refuse to publish above this holdout RMSE.")
    gate_min_ndcg: float | None = Field(
        None, ge=0, le=1, description="Refuse to publish below this holdout nDCG@10."
    )
    gate_rating_tolerance: float | None = Field(
        0.05,
        ge=0,
        le=1,
        description="Refuse when the holdout RMSE or MAE is worse than the last published night's by more than this share of it; null compares neither.",
    )
    gate_ranking_tolerance: float | None = Field(
        0.15,
        ge=0,
        le=1,
        description="Refuse when the holdout nDCG@10 or recall@10 is worse than the last published night's by more than this share of it (lists of few users vary by some per cent from night to night); null compares neither.",
    )
    gate_beat_popularity: bool = Field(
        True,
        description="Refuse when the holdout nDCG@10, at the upper end of its interval, is below that of the popularity list, of the most popular of 7 or of 30 days, of EASE or of SLIT; all but the first on a sample of users. Lists by rating are not held to it.",
    )
    gate_popularity_tolerance: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="How much lower than such a list's, as a share of it: ratings without any taste in them leave nothing to beat it with.",
    )
    gate_max_shrink: float | None = Field(
        0.1,
        ge=0,
        le=1,
        description="Refuse when the ratings or the users are fewer than the last published night's by more than this share; null accepts any.",
    )
    gate_max_growth: float | None = Field(
        1.0,
        ge=0,
        le=1000,
        description="Refuse when the ratings or the users are more than the last published night's by more than this share (1 = twice as many); null accepts any.",
    )
    gate_max_rejected_rise: float | None = Field(
        0.01,
        ge=0,
        le=1,
        description="Refuse when the share of rejected rows is above the last published night's by more than this (0.01 = one row in a hundred); null accepts any.",
    )
    gate_max_days_ahead: int | None = Field(
        1,
        ge=0,
        description="Refuse a date that is more days than this after today (UTC): it would be the newest night until then; null accepts any.",
    )
    gate_scale_rows: int = Field(
        10,
        ge=0,
        description="The ends of the rating scale must not hang on this many ratings or fewer (at most a tenth of them) that lie far from all others; 0 accepts them. Not looked at where y_range is given.",
    )
    gate_scale_stretch: float = Field(
        1.0,
        gt=0,
        description="How far such ratings may stretch the scale beyond the others, as a share of its width without them.",
    )
    gate_max_scale_change: float | None = Field(
        0.1,
        ge=0,
        description="Refuse when an end of the rating scale is further from the last published night's than this share of its width; null accepts any.",
    )
    gate_max_lists_shrink: float | None = Field(
        0.1,
        ge=0,
        le=1,
        description="Refuse when the written lists or their rows are fewer than the last published night's by more than this share; null accepts any but none at all.",
    )
    gate_max_coverage_drop: float | None = Field(
        0.5,
        ge=0,
        le=1,
        description="Refuse when the movies in anybody's first ten of the written lists are fewer than the last published night's by more than this share; null accepts any.",
    )
    gate_max_popular_rise: float | None = Field(
        0.4,
        ge=0,
        le=1,
        description="Refuse when the share of the first ten places that goes to the tenth of the movies with most ratings is above the last published night's by more than this; null accepts any.",
    )
    gate_max_churn: float | None = Field(
        0.9,
        ge=0,
        le=1,
        description="Refuse when more than this share of the first ten places of users who had a list last night shows a movie that was not in theirs; null accepts any.",
    )
    gate_override: bool = Field(
        False,
        description="Publish although the gate refuses its metrics or counts; the override is recorded in the runs table. Broken lists are never published.",
    )

    # Scoring ---------------------------------------------------------------------------------------
    top_n: int = Field(100, ge=1, le=32_767, description="Movies in a user's list.")
    min_ratings: int = Field(1, ge=0, description="A movie needs this many ratings to be listed.")
    min_score: float | None = Field(
        None,
        description="Least score of a movie in a model's list, which may get shorter by it; popularity lists are left alone.",
    )
    popular_days: int | None = Field(
        None,
        ge=1,
        le=36_525,
        description="Popularity lists, of users whom the model cannot rank for, go by the ratings of so many days up to the night's newest one, then by those of all time where that gives too few movies; without it, by those of all time. The ratings need times.",
    )
    max_per: dict[str, Annotated[int, Field(ge=1)]] = Field(
        {},
        description="Columns of the movies table and how many of the first rule_places movies of a list may share a value: {genres = 3} lists at most 3 of a genre there, and holds the others back behind these places. Text may hold several values divided by |, a list holds several too.",
    )
    rule_places: int = Field(
        10, ge=1, le=1_000, description="The first places of a list, which max_per and new_places are about."
    )
    new_places: int = Field(
        0,
        ge=0,
        le=1_000,
        description="How many of the first rule_places places of a model's list, the last of them, go to new movies that are not there already: drawn, by seed, date and user, from the 4 x new_places best of them.",
    )
    new_max_ratings: int = Field(
        20, ge=0, description="A movie is new, for new_places, with at most this many ratings."
    )
    similar_min_ratings: int = Field(
        5,
        ge=1,
        description="A movie with fewer training ratings is listed as similar to none: its embedding is mostly chance.",
    )
    audience: int = Field(
        0,
        ge=0,
        le=10_000,
        description="Users in the table `audience`, for each movie those who fit it best: every user is scored once more; 0 leaves the table empty.",
    )
    lists_per: dict[str, Annotated[int, Field(ge=1, le=32_767)]] = Field(
        {},
        description="Columns of the movies table and how many movies a list has: {genres = 20} gives each user a list of 20 for each genre, in the table `top_n_by_value`. Text may hold several values divided by |, a list holds several too; every user is scored once more.",
    )
    shard_users: int | None = Field(
        None,
        ge=1,
        description="Users scored as one task; without it, as many as take some four minutes of one core, half a minute of eight.",
    )
    part_rows: int = Field(
        5_000_000,
        ge=1,
        description="Rows at which a Parquet file of the lists is full and the next is begun.",
    )
    memory_gb: float = Field(
        4.0,
        gt=0,
        le=10_000,
        description="Memory in GB (2^30 bytes) that the process that scores a shard, or on Ray reads a piece of the ratings, may take, its libraries included.",
    )
    threads: int | None = Field(
        None,
        ge=1,
        description="Processor threads of scoring; without it, as many as the process may use processors (on Ray: one a task, of any kind).",
    )
    runner: Literal["here", "ray"] = Field(
        "here",
        description="Where the flow reads ratings, makes the lists that are measured, and runs its shards: in its own process, or in pieces all over a Ray cluster; training stays in one process.",
    )
    ray_address: str | None = Field(
        None,
        description="Address of the Ray cluster, such as ray://head:10001; without it, one is started on this machine.",
    )
    gpus_per_shard: float = Field(
        0.0, ge=0, le=64, description="GPUs that a shard asks of the Ray cluster; 0.5 lets two share one."
    )

    # Machine ---------------------------------------------------------------------------------------
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="auto takes a GPU when there is one; cpu, cuda, cuda:1.",
    )
    seed: int = Field(
        42,
        ge=0,
        lt=2**32,
        description="Seed of every random choice: the same seed and data give the same tables.",
    )

    @model_validator(mode="after")
    def _check_together(self) -> "Config":
        if self.feedback == "ratings" and (self.weight_column or self.event_column):
            given = "weight_column" if self.weight_column else "event_column"
            raise ValueError(f"{given} is set, but feedback is ratings; it belongs to feedback = implicit")
        if bool(self.event_column) != bool(self.event_weights):
            given, lacks = ("event_column", "event_weights")[:: 1 if self.event_column else -1]
            raise ValueError(f"{given} is set without {lacks}; give both, or neither")
        if self.event_weights and not any(self.event_weights.values()):
            raise ValueError("event_weights leave every event out; give one a weight above 0")
        if self.feedback == "implicit" and self.rank_by == "rating":
            raise ValueError(
                "rank_by is rating, but feedback = implicit predicts none; set rank_by = affinity"
            )
        if self.new_places > self.rule_places:
            raise ValueError(
                f"new_places is {self.new_places}, but they are among the first rule_places = {self.rule_places}; lower the one, or raise the other"
            )
        if self.y_range is not None and not self.y_range[0] < self.y_range[1]:
            raise ValueError(f"y_range is {list(self.y_range)}, expected the lower end first")
        if isinstance(self.y_padding, float) and self.y_padding < 0:
            raise ValueError(f"y_padding is {self.y_padding}, expected 0 or more, or 'learned'")
        if self.dropout is not None and any(not 0 <= p < 1 for p in self.dropout):
            raise ValueError(f"dropout is {list(self.dropout)}, expected two numbers from 0 to below 1")
        if self.hidden is not None and (not self.hidden or any(width < 1 for width in self.hidden)):
            raise ValueError(f"hidden is {list(self.hidden)}, expected at least one width of 1 or more")
        return self


def load_config(file: str | Path | None = None, settings: Sequence[str] = ()) -> Config:
    """The configuration of a TOML file, with `KEY=VALUE` settings over it.

    Raises InputError for a file that cannot be read, an unknown key, or a value out of its bounds.
    """
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values.update(tomllib.loads(Path(file).read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"config {file}: cannot be read ({error}); name an existing TOML file"
            ) from error
        except tomllib.TOMLDecodeError as error:
            raise InputError(
                f"config {file}: is not TOML ({error}); `cfjobs config` prints one to start from"
            ) from error
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f"--set {setting}: has no '=', expected KEY=VALUE such as epochs=5")
        values[key.strip()] = _toml_value(key.strip(), text.strip())
    return validated(values)


def validated(values: dict[str, Any]) -> Config:
    """A Config of these values, or an InputError that names each wrong key, its value and the remedy."""
    try:
        return Config(**values)
    except ValidationError as error:
        raise InputError("; ".join(_explain(e, values) for e in error.errors())) from error


def _toml_value(key: str, text: str) -> Any:
    """The value of a setting; `null` and `none` are no value, but for a key that has `none` among its own."""
    field = Config.model_fields.get(key)
    if text.lower() in {"none", "null"} and not (field and text in get_args(field.annotation)):
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(error: Any, values: dict[str, Any]) -> str:
    key = str(error["loc"][0]) if error["loc"] else ""
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, Config.model_fields, n=1)
        hint = f"did you mean {near[0]}?" if near else "`cfjobs config` lists every key"
        return f"configuration key {key}: is unknown; {hint}"
    if not key:
        return f"configuration: {str(error['msg']).removeprefix('Value error, ')}"
    return f"configuration key {key}: got {values.get(key)!r}; {error['msg'][0].lower()}{error['msg'][1:]}"


def as_toml(config: Config) -> str:
    """Every key with its value, each under a comment that says what it does; a valid configuration file."""
    lines: list[str] = []
    for name, field in Config.model_fields.items():
        value = getattr(config, name)
        if name in GROUPS:
            lines.append(f"# {GROUPS[name]} {'-' * (100 - len(GROUPS[name]))}\n")
        lines.append(f"# {field.description}")
        if value is None:
            lines.append(f"# {name} =\n")
            continue
        lines.append(f"{name} = {toml_text(value)}\n")
    return "\n".join(lines)


def toml_text(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml_text(of)}" for key, of in value.items()) + "}"
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def relevant_from(y_range: tuple[float, float]) -> float:
    """The rating from which a movie counts as liked: 3/4 of the way up the range, 4 of 1..5 and of 0.5..5."""
    low, high = y_range
    return low + (high - low) * 3 / 4
