"""The networks by name: `names()` finds their files, `build()` makes one,
`plan()` says how its training goes."""

import importlib
import pkgutil
from dataclasses import dataclass, fields, replace
from typing import Literal

from cfjobs.config import Config
from cfjobs.errors import InputError
from cfjobs.models import networks
from cfjobs.models.network import Network
from cfjobs.models.recipe import Recipe, Settings


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
    """How a training goes: as configured, and by the network's recipe where the configuration leaves it
    open. batch_size: 0 in blocked SGD."""

    batch_size: int
    epochs: int
    learning_rate: float
    l2: float


Training = Literal["blocked_sgd", "minibatch"]
"""How a rating network is trained: a rating at a time on a processor, or by batches on any device."""

_WARM_PASSES = 2  # of blocked SGD: one pass alone ends 2 % above a cold start's RMSE, two 0.3 %
_OF_MINIBATCH = ("optimizer", "steps", "batch_size", "weight_decay", "schedule", "momentum")


def training_of(config: Config, *, device: str = "cpu", processes: int = 1) -> Training:
    """How the rating network is trained with this configuration, on a device of this type, by so many
    processes.

    auto is blocked SGD wherever that can be. InputError where `training = blocked_sgd` cannot be.
    """
    obstacle = _obstacle(config, device=device, processes=max(processes, config.processes))
    if config.training == "blocked_sgd" and obstacle:
        raise InputError(
            f"configuration key training: got 'blocked_sgd', but {obstacle}; set training=auto or minibatch"
        )
    return "minibatch" if config.training == "minibatch" or obstacle else "blocked_sgd"


def _obstacle(config: Config, *, device: str, processes: int) -> str | None:
    """What stands in the way of blocked SGD, None if nothing does."""
    if _class(config.model).block_recipe is None:
        return f"model = {config.model} can only be trained by minibatch"
    unset = Config()
    for key in _OF_MINIBATCH:
        if getattr(config, key) != getattr(unset, key):
            return f"{key} is a setting of minibatch"
    for key in ("user_features", "movie_features"):
        if getattr(config, key):
            return f"{key} are learnt by minibatch"
    if isinstance(config.y_padding, str):
        return "y_padding = learned is learnt by minibatch"
    if processes > 1:
        return f"{processes} processes train by minibatch"
    return f"device {device} trains by minibatch" if device != "cpu" else None


def plan(
    config: Config,
    *,
    n_ratings: int,
    warm: bool = False,
    passes: float = 1.0,
    training: Training = "minibatch",
) -> Plan:
    """The plan for this many training ratings. warm: of a training that goes on from an earlier model,
    `warm_share` times `passes` of the epochs, all of them at most."""
    blocks = _class(config.model).block_recipe if training == "blocked_sgd" else None
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
        epochs = max(at_least, round(epochs * min(1.0, config.warm_share * passes)))
    return Plan(batch_size, epochs, rate, l2)


def build(name: str, *, n_users: int, n_movies: int, settings: Settings) -> Network:
    """An untrained network; randomness comes from torch's global generator.
    InputError for an unknown name."""
    return _class(name)(n_users=n_users, n_movies=n_movies, settings=settings)


def _class(name: str) -> type[Network]:
    if "." not in name and name not in names():
        raise InputError(
            f"configuration key model: got {name!r}, expected one of {', '.join(names())}, or the module of another network such as package.module"
        )
    module = name if "." in name else f"{networks.__name__}.{name}"
    try:
        network = importlib.import_module(module).NETWORK
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"configuration key model: got {name!r}, which cannot be used ({error}); name a module that can be imported and defines NETWORK"
        ) from error
    if not (isinstance(network, type) and issubclass(network, Network)):
        raise InputError(
            f"configuration key model: got {name!r}, whose NETWORK is {network!r}; expected a subclass of cfjobs.models.network.Network"
        )
    return network
