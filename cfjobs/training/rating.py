"""Fitting a network to ratings: the story of a training, whichever way its steps are taken."""

from collections.abc import Callable

import torch

from cfjobs import models
from cfjobs.config import Config
from cfjobs.models.network import Network
from cfjobs.training.blocked_sgd import BlockedSGD
from cfjobs.training.checkpoint import NO_CHECKPOINTS, Checkpoints
from cfjobs.training.distributed import ALONE, Processes
from cfjobs.training.epochs import Epoch, EpochLoop, Examples
from cfjobs.training.minibatch import Minibatch

LOOPS: dict[models.Training, type[EpochLoop]] = {loop.training: loop for loop in (BlockedSGD, Minibatch)}


def fit_rating(
    network: Network,
    train: Examples,
    *,
    config: Config,
    valid: Examples | None = None,
    stop_fraction: float = 1.0,
    start: Callable[[Network], None] | None = None,
    passes: float = 1.0,
    on_epoch: Callable[[Epoch], None] | None = None,
    checkpoints: Checkpoints = NO_CHECKPOINTS,
    processes: Processes = ALONE,
    training: models.Training | None = None,
) -> list[Epoch]:
    """Train the network in place and return the record of its epochs.

    With `valid` the weights of the best epoch are kept, and training stops after `patience` epochs without
    a better one. Without it, training ends after `stop_fraction` of the same schedule's epochs: a refit on
    everything stops where the holdout said that the best epoch was. start: puts the rows of an earlier
    model into the network, of which `warm_share` times `passes` of the epochs are enough. Training goes on
    from the last of the checkpoints.
    Raises TrainingDiverged when the loss is not finite. Keys that the configuration leaves open are the
    network's own. training: how it goes; without it, as `models.training_of` says.
    """
    torch.manual_seed(config.seed)  # dropout, and what a network draws at the beginning
    network.setup(train.user_idx, train.movie_idx, train.rating)
    if start is not None:
        start(network)
    warm = start is not None
    training = training or models.training_of(
        config, device=train.rating.device.type, processes=processes.size
    )
    loop = LOOPS[training](
        network,
        train,
        valid=valid,
        config=config,
        plan=models.plan(config, n_ratings=len(train), warm=warm, passes=passes, training=training),
        stop_fraction=stop_fraction,
        warm=warm,
        processes=processes,
        on_epoch=on_epoch,
    )
    loop.run(checkpoints)
    if loop.best_weights is not None:
        network.load_state_dict(loop.best_weights)
    network.eval()
    network.fold()
    network.fill_unknown(
        torch.bincount(train.user_idx, minlength=network.n_users) > 0,
        torch.bincount(train.movie_idx, minlength=network.n_movies) > 0,
    )
    return loop.record
