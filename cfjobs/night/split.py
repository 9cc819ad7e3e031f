"""The stage that holds some ratings out of training, so that a model is measured on what it has not seen."""

import logging
from collections.abc import Sequence
from functools import partial

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cfjobs import storage
from cfjobs.errors import InputError
from cfjobs.night.pieces import Each, in_turn
from cfjobs.night.records import Night, Prepared
from cfjobs.ratings import holdout
from cfjobs.storage.parquet import TableFile, parquet_bytes

log = logging.getLogger(__name__)


def hold_out(night: Night, prepared: Prepared, *, each: Each = in_turn) -> int:
    """Choose the ratings that training does not see, into the work folder. Returns how many.

    A random holdout is drawn in this process, from the ratings of all users: 9 bytes a rating.
    """
    config = night.config
    kind = holdout.kind_of(config, prepared.question)
    files = night.files("ratings")
    storage.delete_under(storage.join(night.work, "holdout.parquet"))
    if kind == "random":
        n_held_out = _at_random(night, files)
    else:
        n_held_out = sum(each(partial(_of_file, night, kind), files, words="choose the holdout"))
    if kind != "none" and n_held_out == 0:
        raise InputError(
            f"ratings: no user has enough of them for a {kind} holdout of {config.holdout_fraction}; "
            "raise holdout_fraction, or set holdout=none"
        )
    log.info("holdout: %d of %d ratings, %s", n_held_out, prepared.counts["kept"], kind)
    return n_held_out


def held_out(night: Night) -> NDArray[np.bool_]:
    """Which ratings are held out [R]."""
    return night.frame("holdout")["held_out"].to_numpy()


def _of_file(night: Night, kind: holdout.Kind, uri: str) -> int:
    """The holdout of a file of ratings, with whole users. Returns how many are held out."""
    file = TableFile(uri, columns=["user_idx"])
    found = holdout.held_out(
        kind,
        file.rows(0, file.n_rows)["user_idx"].to_numpy(),
        fraction=night.config.holdout_fraction,
        seed=night.config.seed,
    )
    _write(night, uri, found)
    return int(found.sum())


def _at_random(night: Night, files: Sequence[str]) -> int:
    ends = np.cumsum([TableFile(uri, columns=[]).n_rows for uri in files])
    config, users = night.config, np.empty(int(ends[-1]), np.int32)
    found = holdout.held_out("random", users, fraction=config.holdout_fraction, seed=config.seed)
    for uri, own in zip(files, np.split(found, ends[:-1]), strict=True):
        _write(night, uri, own)
    return int(found.sum())


def _write(night: Night, uri: str, held_out: NDArray[np.bool_]) -> None:
    """What is held out of a file of ratings, into the file of the holdout beside it."""
    night.write(night.beside(uri, "holdout"), parquet_bytes(pl.DataFrame({"held_out": held_out})))
