"""What every network is: embeddings of users and movies, a forward pass, and how it scores all pairs.

Tensors carry their dimensions: U users, M movies, D factors, B batch, H hidden. Row U of the user embedding
and row M of the movie embedding stand for an id without training ratings: after training they hold the mean
of the trained rows, so an unknown user is a typical one and nothing ever falls on row 0.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from cfjobs.features import Features
from cfjobs.models.pair_dot import pair_logits
from cfjobs.models.raters import Floats, Raters
from cfjobs.models.recipe import BlockRecipe, Recipe, Settings
from cfjobs.models.side_features import HIDDEN_MOVIES, MovieValues, UserValues, ValueEmbedding

UNKNOWN = -1


class UserTable(nn.Embedding):
    """A row for each user, and the last for an unknown one: [U + 1, width]. Its name in the network is
    free."""


class MovieTable(nn.Embedding):
    """A row for each movie, and the last for an unknown one: [M + 1, width]."""


Table = TypeVar("Table", UserTable, MovieTable)


@dataclass(frozen=True)
class BlockRows:
    """The tables of a network that can be trained a rating at a time;
    see `blocked_sgd_kernels.py` for what each is.

    user [U + 1, K, D + 1], x [U + 1, 2 K, D + 1], movie [M + 1, K, D + 1], y [M + 1, 2 K, D + 1]: views of
    the parameters, a bias in the last column. value [R]: of each rating, as in `Raters`.
    """

    user: Tensor
    movie: Tensor
    x: Tensor
    y: Tensor
    offset: Tensor
    raters: Raters
    rated: Raters
    value: Floats
    range: "RatingRange"


@dataclass(frozen=True)
class DotScores:
    """score(u, m) = <user[u], movie[m]> + bias[m]. user [U, D], movie [M, D], bias [M]; float32."""

    user: Tensor
    movie: Tensor
    bias: Tensor


@dataclass(frozen=True)
class MlpScores:
    """score(u, m) = the layers over the two embeddings side by side, ReLU between them. user [U, D_u],
    movie [M, D_m].

    layers: (weight [H_out, H_in], bias [H_out]) each, the first of H_in = D_u + D_m, the last to width 1;
    float32.
    """

    user: Tensor
    movie: Tensor
    layers: tuple[tuple[Tensor, Tensor], ...]


class Network(nn.Module, ABC):
    """A network that predicts the rating a user gives a movie.

    recipe, block_recipe: how this network is trained well by minibatch and, if it can be, by blocked SGD;
    used where the configuration leaves it open. n_members: networks side by side in this one, whose rows a
    rating pays for each. forgotten: names of the parameters that it has in training only.
    """

    recipe: ClassVar[Recipe]
    block_recipe: ClassVar[BlockRecipe | None] = None
    n_members: int = 1
    forgotten: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *, n_users: int, n_movies: int, settings: Settings) -> None:
        super().__init__()
        self.n_users, self.n_movies, self.settings = n_users, n_movies, settings
        self.side = nn.ModuleDict()
        self.unfinished: dict[str, Tensor] = {}

    @abstractmethod
    def forward(self, user_idx: Tensor, movie_idx: Tensor) -> Tensor:
        """Predicted rating [B] of rows user_idx [B] and movie_idx [B] (int64); UNKNOWN is allowed."""

    @abstractmethod
    def scores(self) -> DotScores | MlpScores:
        """How all pairs are scored: increases with the predicted rating, for each user."""

    def members(self, user_idx: Tensor, movie_idx: Tensor) -> Tensor | None:
        """What each of the networks side by side predicts [B, K]; None where there is but one."""
        return None

    def stars_per_unit(self) -> float:
        """Stars that one unit of what `scores` sums is worth in the middle of the rating range."""
        stretched = getattr(self, "range", None)
        if not isinstance(stretched, RatingRange):
            return 1.0
        low, high = stretched.bounds()
        return float(high - low) / 4  # the sigmoid's slope

    def describe(self, *, users: Features | None = None, movies: Features | None = None) -> None:
        """Called before training with the side features of the rows: every table of them gets their sums
        added."""
        for name, table in self.named_children():
            if isinstance(table, UserTable) and users is not None:
                self.side[name] = UserValues(users, table.embedding_dim, device=table.weight.device)
            if isinstance(table, MovieTable) and movies is not None:
                self.side[name] = MovieValues(
                    movies, table.embedding_dim, hidden=HIDDEN_MOVIES, device=table.weight.device
                )

    def side_norms(self, user_idx: Tensor, movie_idx: Tensor) -> list[Tensor]:
        """What the examples pay in L2 for the values of their rows, summed; one number a table."""
        return [
            values.squared_norms()[user_idx if isinstance(values, UserValues) else movie_idx].sum()
            for values in self.values().values()
        ]

    def user_tensors(self) -> set[str]:
        """Names of the parameters and buffers [U + 1, ...] that have a row for each user."""
        return {f"{name}.weight" for name, table in self.named_modules() if isinstance(table, UserTable)}

    def values(self) -> dict[str, ValueEmbedding]:
        """What side features are being learnt, by the name of what they add to."""
        return {name: values for name, values in self.side.items() if isinstance(values, ValueEmbedding)}

    def setup(self, user_idx: Tensor, movie_idx: Tensor, rating: Tensor) -> None:
        """Called before training with the rows of all training ratings [R], and the ratings,
        for a network that looks at them."""

    def block_rows(self) -> BlockRows | None:
        """What is trained a rating at a time, once training has begun; None for a network that cannot be."""
        return None

    def fold(self) -> None:
        """Called after training, with the weights that are kept.

        A network that changes or drops some here leaves them, as training knew them, in `unfinished`: a warm
        start goes on from them.
        """

    def rows(self, table: nn.Embedding, idx: Tensor, *, more: Tensor | None = None) -> Tensor:
        """Rows [B, width] of an embedding, with more [B, width] and with their side features;
        UNKNOWN takes the last row.

        After training they are float64: sums then round alike whatever the batch, its tail or the device, so
        a published prediction depends on nothing but its pair.
        """
        found = lookup(table, idx)
        if more is not None:
            found = found + more
        for name, values in self.values().items():
            if getattr(self, name) is table:
                found = (found * values.shown(idx) if self.training else found) + values.rows(idx)
        return found if self.training else found.double()

    def dot(self, users: nn.Embedding, movies: nn.Embedding, user_idx: Tensor, movie_idx: Tensor) -> Tensor:
        """<p_u, q_m> [B] of rows of two embeddings."""
        if self.copies_no_rows(users, movies):
            tables = users.weight[:, None], movies.weight[:, None]
            return pair_logits(*tables, user_idx, movie_idx, n_factors=users.embedding_dim)[:, 0]
        return (self.rows(users, user_idx) * self.rows(movies, movie_idx)).sum(dim=1)

    def copies_no_rows(self, *tables: nn.Embedding) -> bool:
        """Whether predictions from these tables can be had from `pair_logits`: after training, on a
        processor, without a gradient."""
        plain = all(
            t.weight.dtype == torch.float32 and t.weight.device.type == "cpu" and t.weight.is_contiguous()
            for t in tables
        )
        return plain and not (self.training or self.values() or torch.is_grad_enabled())

    @torch.no_grad()
    def fill_unknown(self, trained_users: Tensor, trained_movies: Tensor) -> None:
        """Give the unknown row, and every row without training ratings, the mean of the trained rows;
        fold side features in.

        A described row without ratings is what its features say, and nothing else.

        trained_users [U], trained_movies [M]: True for a row that had training ratings.
        """
        kinds = ((UserTable, UserValues, trained_users), (MovieTable, MovieValues, trained_movies))
        for kind, kind_of_values, trained in kinds:
            side = {
                name: values for name, values in self.values().items() if isinstance(values, kind_of_values)
            }
            untrained = torch.cat([~trained, trained.new_ones(1)])
            for table in self.modules():
                if isinstance(table, kind):
                    table.weight[untrained] = table.weight[:-1][trained].mean(dim=0)
                    for values in side.values():
                        table.weight[:-1][values.described & ~trained] = 0
            for name, values in side.items():
                self.fold_side(name, values.filled(trained))
        self.side = nn.ModuleDict()

    def fold_side(self, name: str, sums: Tensor) -> None:
        """Make the sums of a table's features [N + 1, width] part of the network."""
        getattr(self, name).weight += sums


class RatingRange(nn.Module):
    """low + (high - low) x sigmoid(x): the output stretched over the rating range.

    The sigmoid reaches its ends only at infinity, so the range is widened by a padding on each side; the
    lesson fixes it by hand. `learned` makes both paddings parameters, kept positive by a softplus.
    Source: fast.ai, lesson 5 notebook (`EmbeddingNet`), whose forum asks how to learn them.
    """

    _START = 0.5

    def __init__(self, y_range: tuple[float, float], padding: float | Literal["learned"]) -> None:
        super().__init__()
        self.y_range = y_range
        self.raw: nn.Parameter | None = None
        self.fixed = 0.0
        if isinstance(padding, str):
            self.raw = nn.Parameter(torch.full((2,), math.log(math.expm1(self._START))))
        else:
            self.fixed = padding

    def bounds(self) -> tuple[Tensor | float, Tensor | float]:
        """The ends of the widened range."""
        low, high = self.y_range
        if self.raw is None:
            return low - self.fixed, high + self.fixed
        padding = functional.softplus(self.raw)
        return low - padding[0], high + padding[1]

    def forward(self, x: Tensor) -> Tensor:
        low, high = self.bounds()
        return low + (high - low) * torch.sigmoid(x)


def embedding(
    kind: type[Table], n_rows: int, width: int, *, settings: Settings, lesson_range: tuple[float, float]
) -> Table:
    """A table of n_rows + 1 rows (the last for UNKNOWN), initialised as the settings say.

    uniform: the lesson's range for this network; normal: N(0, init_std); kaiming: N(0, 2 / width).
    """
    table = kind(n_rows + 1, width)
    if settings.init == "uniform":
        nn.init.uniform_(table.weight, *lesson_range)
    elif settings.init == "normal":
        nn.init.normal_(table.weight, std=settings.init_std)
    else:
        nn.init.kaiming_normal_(table.weight)
    return table


def embeddings(
    n_users: int, n_movies: int, width: int, *, settings: Settings, lesson_range: tuple[float, float]
) -> tuple[UserTable, MovieTable]:
    """A table of users and one of movies, of one width."""
    return (
        embedding(UserTable, n_users, width, settings=settings, lesson_range=lesson_range),
        embedding(MovieTable, n_movies, width, settings=settings, lesson_range=lesson_range),
    )


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """The layer in the precision of its input."""
    return functional.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))


def lookup(table: nn.Embedding, idx: Tensor) -> Tensor:
    """Rows [B, width] of an embedding; UNKNOWN takes the last row."""
    return functional.embedding(torch.where(idx < 0, table.num_embeddings - 1, idx), table.weight)
