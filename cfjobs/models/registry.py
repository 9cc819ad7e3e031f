"""The networks by name: `names()` finds their files, `build()` makes one,
`plan()` says how its training goes."""

import importlib
import pkgutil
from dataclasses import dataclass, fields, replace

from cfjobs.config import Config
from cfjobs.errors import InputError
from cfjobs.models import networks
from cfjobs.models.network import Network
from cfjobs.models.recipe import BlockRecipe, Recipe, Settings


def names() -> list[str]:
    """Names of the networks, which are the names of their files."""
    return sorted(module.name for module in pkgutil.iter_modules(networks.__path__))


def recipe_of(config: Config) -> Recipe:
    """The training of a configuration: its own keys, and the network's recipe where it leaves them open."""
    own = _class(config.model).recipe
    given = {field.name: getattr(config, field.name, None) for field in fields(Recipe)}
    return replace(own, **{name: value for name, value in given.items() if value is not None})


def settings(config: Config, *, y_range: tuple[float, float]) -> Settings:
    """The part of a configuration that shapes the network."""
    chosen = recipe_of(config)
    return Settings(
        n_factors=config.n_factors,
        init=config.init,
        init_std=config.init_std,
        hidden=chosen.hidden,
        dropout=chosen.dropout,
        y_range=config.y_range or y_range,
        y_padding=config.y_padding,
        ensemble=config.ensemble,
        max_raters=config.max_raters,
        user_side=config.n_factors if config.user_features else 0,
        movie_side=config.n_factors if config.movie_features else 0,
    )


@dataclass(frozen=True)
class Plan:
    """How a training goes: as configured, and by the network's recipe where the configuration leaves it open.
    batch_size 0: a rating at a time."""

    batch_size: int
    epochs: int
    learning_rate: float
    l2: float


_WARM_PASSES = 2  # a rating at a time: one pass alone ends 2 % above a cold start's RMSE, two 0.3 %
_KNOBS_OF_BATCHES = ("optimizer", "steps", "batch_size", "weight_decay", "schedule", "momentum")


def block_recipe(config: Config) -> BlockRecipe | None:
    """The recipe of a training a rating at a time;
    None where the network has none or a knob asks for batches."""
    unset = Config()
    turned = any(getattr(config, knob) != getattr(unset, knob) for knob in _KNOBS_OF_BATCHES)
    more = config.processes > 1 or config.user_features or config.movie_features
    if turned or more or isinstance(config.y_padding, str):
        return None
    return _class(config.model).by_blocks


def plan(config: Config, *, n_ratings: int, warm: bool = False, by_blocks: bool = False) -> Plan:
    """The plan for this many training ratings. warm:
    of a training that goes on from an earlier model, `warm_share` of the epochs."""
    blocks = block_recipe(config) if by_blocks else None
    if blocks is not None:
        batch_size, epochs = 0, config.epochs or blocks.epochs(n_ratings)
        rate = config.learning_rate or blocks.learning_rate(epochs)
        l2 = blocks.l2 if config.l2 is None else config.l2
    else:
        chosen = recipe_of(config)
        batch_size = config.batch_size or chosen.batch_size(n_ratings)
        epochs = config.epochs or chosen.epochs(n_ratings, batch_size=batch_size)
        rate, l2 = chosen.learning_rate, chosen.l2
    if warm:
        at_least = _WARM_PASSES if blocks is not None and not config.epochs else 1
        epochs = max(at_least, round(epochs * config.warm_share))
    return Plan(batch_size, epochs, rate, l2)


def build(name: str, *, n_users: int, n_movies: int, settings: Settings) -> Network:
    """An untrained network; randomness comes from torch's global generator.
    InputError for an unknown name."""
    return _class(name)(n_users=n_users, n_movies=n_movies, settings=settings)


def _class(name: str) -> type[Network]:
    if name not in names():
        raise InputError(f"configuration key model: got {name!r}, expected one of {', '.join(names())}")
    network: type[Network] = importlib.import_module(f"{networks.__name__}.{name}").NETWORK
    return network
