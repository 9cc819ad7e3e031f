"""Fitting a network to ratings: the story of a training, whichever way its steps are taken."""

import logging
import time
from collections.abc import Callable

import torch

from cfjobs import models
from cfjobs.config import Config
from cfjobs.models.network import Network
from cfjobs.training.blocked_sgd import ByBlocks, by_blocks
from cfjobs.training.checkpoint import NO_CHECKPOINTS, Checkpoints
from cfjobs.training.distributed import ALONE, Processes
from cfjobs.training.loop import Epoch, Examples
from cfjobs.training.minibatch import Batches

log = logging.getLogger(__name__)


def fit_rating(
    network: Network,
    train: Examples,
    *,
    config: Config,
    valid: Examples | None = None,
    stop_share: float = 1.0,
    start: Callable[[Network], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    checkpoints: Checkpoints = NO_CHECKPOINTS,
    processes: Processes = ALONE,
) -> list[Epoch]:
    """Train the network in place and return the record of its epochs.

    With `valid` the weights of the best epoch are kept, and training stops after `patience` epochs without a
    better one. Without it, training ends after `stop_share` of the same schedule's epochs: a refit on
    everything stops where the holdout said that the best epoch was. start: puts the rows of an earlier model
    into the network, of which `warm_share` of the epochs are enough. Training goes on from the last of the
    checkpoints. Raises TrainingDiverged when the loss is not finite. Keys that the configuration leaves open
    are the network's own.
    """
    torch.manual_seed(config.seed)  # dropout, and what a network draws at the beginning
    network.begin(train.user_idx, train.movie_idx)
    if start is not None:
        start(network)
    blocks = by_blocks(network, train, config=config, processes=processes)
    warm = start is not None
    course = (ByBlocks if blocks else Batches)(
        network,
        train,
        config=config,
        plan=models.plan(config, n_ratings=len(train), warm=warm, by_blocks=blocks),
        stop_share=stop_share,
        warm=warm,
        processes=processes,
    )
    if (state := checkpoints.last(course.facts())) is not None:
        course.restore(state)
        log.info("going on from the checkpoint in epoch %d, step %d", course.epoch, course.step)
    while course.epoch <= course.stop_after and not course.stopped:
        started = time.perf_counter()
        course.run_epoch(checkpoints)
        record = course.end_epoch(valid, started)
        if on_epoch:
            on_epoch(record)
    if course.best_weights is not None:
        network.load_state_dict(course.best_weights)
    network.eval()
    network.finish()
    network.fill_unknown(
        torch.bincount(train.user_idx, minlength=network.n_users) > 0,
        torch.bincount(train.movie_idx, minlength=network.n_movies) > 0,
    )
    return course.record
