"""Going on from an earlier model: its rows move to tonight's, matched by outside id.

A user or movie that the earlier model had no ratings of keeps the initial row of a cold start; one that
vanished is left behind. Everything that is not a row of a user or a movie is taken as it was.

    row = keep x earlier row + (1 - keep) x initial row      for embeddings; biases are kept whole

A refit goes on from the model that the same night measured: it keeps all, and takes steps large enough to
learn what was held out. Going on from an earlier night's model keeps nearly all of the ranking network and
takes small steps, so that the lists of users whose ratings did not change stay what they were; the rating
network's earlier rows are drawn back further, since taken whole they would fit the earlier ratings ever
closer from night to night.

Source: Ash and Adams, "On warm-starting neural network training" (2020), shrink and perturb; the fractions
were chosen on inner splits, see docs/decisions/0007-published-as-measured.md.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cfjobs.models.network import MovieTable, Network, UserTable
from cfjobs.models.ranker import RankingModel


@dataclass(frozen=True)
class Start:
    """Where both trainings begin; None for a cold one.

    rating: puts the earlier rows into a network that has begun; ranking: the same for random parameters;
    model_uri: of the earlier model; pace: of the ranking network's learning rate; passes: of the rating
    network's epochs, as in `Keep`.
    """

    rating: Callable[[Network], None] | None = None
    ranking: Callable[[RankingModel], RankingModel] | None = None
    model_uri: str | None = None
    pace: float = 1.0
    passes: float = 1.0


COLD = Start()


@dataclass(frozen=True)
class Keep:
    """How much of an earlier model is kept.

    rating, ranking: fraction of the earlier embeddings in each network. pace: what the ranking network's
    learning rate is multiplied by. passes: what the rating network's fraction of its epochs is multiplied by;
    beside the ranking network's steps they cost little.
    """

    rating: float
    ranking: float
    pace: float
    passes: float


OF_TONIGHT = Keep(rating=1.0, ranking=1.0, pace=1.4, passes=1.7)
"""A refit, from the model that the same night has measured."""

OF_ANOTHER_NIGHT = Keep(rating=0.7, ranking=0.97, pace=0.35, passes=1.0)
"""A model trained on the ratings of an earlier night."""


@torch.no_grad()
def carry_over(
    network: Network,
    earlier: dict[str, Tensor],
    *,
    user_rows: Tensor,
    movie_rows: Tensor,
    keep: float = OF_ANOTHER_NIGHT.rating,
) -> None:
    """Put the rows of an earlier model into a network of the same kind that has begun its training.

    earlier: its parameters by name. user_rows [U], movie_rows [M]: the earlier row of each of tonight's, -1
    for a new one. keep: fraction of the earlier embeddings. Raises ValueError when the parameters are not
    those of this network.
    """
    own = network.state_dict()
    if own.keys() != earlier.keys():
        raise ValueError(f"its parameters are {sorted(earlier)}, expected {sorted(own)}")
    for name, tensor in own.items():
        source = earlier[name].to(tensor.device)
        table = network.get_submodule(name.rpartition(".")[0])
        if not isinstance(table, UserTable | MovieTable):
            if tensor.shape != source.shape:
                raise ValueError(f"{name} is {list(source.shape)}, expected {list(tensor.shape)}")
            tensor.copy_(source)
            continue
        moved = (user_rows if isinstance(table, UserTable) else movie_rows).to(tensor.device)
        if tensor.shape[1:] != source.shape[1:] or len(tensor) != len(moved) + 1:
            raise ValueError(
                f"{name} has rows of {list(source.shape[1:])}, expected {list(tensor.shape[1:])}"
            )
        fraction = keep if tensor.shape[1] > 1 else 1.0  # biases stay
        known = moved >= 0
        tensor[:-1][known] = fraction * source[moved[known]] + (1 - fraction) * tensor[:-1][known]
        tensor[-1] = source[-1]


@torch.no_grad()
def carry_over_ranking(
    initial: RankingModel,
    earlier: RankingModel,
    *,
    movie_rows: Tensor,
    keep: float = OF_ANOTHER_NIGHT.ranking,
) -> RankingModel:
    """The initial parameters with the rows of the movies that the earlier model knows. movie_rows [M]:
    as for `carry_over`."""
    found = {name: tensor.clone() for name, tensor in initial.tensors().items()}
    for name, tensor in earlier.tensors().items():
        known = (movie_rows >= 0).to(found[name].device)
        rows = tensor.to(found[name].device)[movie_rows.to(found[name].device)[known]]
        fraction = keep if tensor.dim() > 1 else 1.0
        found[name][known] = fraction * rows + (1 - fraction) * found[name][known]
    return RankingModel(**found, config=initial.config)
