"""Training: the networks of a night fitted to its ratings, from checkpoints, earlier models or anew."""

from cfjobs.training.epochs import Epoch, Examples, best_epoch, mean_squared_error
from cfjobs.training.fit import (
    Fitted,
    Kit,
    Progress,
    Task,
    examples,
    fit_networks,
    fit_profile,
    fit_ranking_model,
    new_network,
    ranking_config,
    relevant_rating,
)
from cfjobs.training.rating import fit_rating

__all__ = [
    "Fitted",
    "Kit",
    "Progress",
    "Task",
    "examples",
    "fit_networks",
    "fit_profile",
    "fit_ranking_model",
    "new_network",
    "ranking_config",
    "relevant_rating",
    "Epoch",
    "Examples",
    "best_epoch",
    "mean_squared_error",
    "fit_rating",
]
