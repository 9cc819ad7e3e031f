"""A network that attends to an ordered history, beside the ranking network, at equal processor time.

    python bench/attention.py --ratings FOLDER [--seeds 3] [--times 1 10] [--json]

Per user the last 20 % of the ratings by time are held out, as on a default night. The rival is SASRec (Kang
and McAuley, 2018) with what has been found to help it since: a softmax over many candidates instead of one
negative, the ratings beside the movies in its input, targets worth as much as the ranking network's, each
drawn from the next ten. It scores by a dot product of the last hidden state with a movie's embedding, so that
the same engine makes its lists. It gets as much processor time as the ranking network took, and multiples of
that.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from cfjobs import evaluation, training
from cfjobs.config import Config
from cfjobs.models.network import DotScores
from cfjobs.models.ranker import History
from cfjobs.night import story
from cfjobs.night.records import Inputs
from cfjobs.topn import top_n
from cfjobs.topn.problem import Pairs
from cfjobs.training.ranker import fit_ranking


@dataclass(frozen=True)
class Recipe:
    """Sizes and rates of the rival; those usual in the literature for data of this size."""

    width: int = 128
    blocks: int = 2
    heads: int = 2
    length: int = 100
    dropout: float = 0.2
    batch_users: int = 64
    learning_rate: float = 1e-3
    candidates: int = 512
    """Movies that a step's targets are told from, beside each target."""

    horizon: int = 10
    """A target is drawn from this many ratings that follow a place; 1 is SASRec's own."""


class Attention(nn.Module):
    """Causal self-attention over the latest movies of a user; movies are counted from 1, 0 is none."""

    def __init__(self, n_movies: int, n_stars: int, recipe: Recipe) -> None:
        super().__init__()
        self.movie = nn.Embedding(n_movies + 1, recipe.width, padding_idx=0)
        self.stars = nn.Embedding(n_stars, recipe.width)
        self.place = nn.Embedding(recipe.length, recipe.width)
        for table in (self.movie, self.stars, self.place):
            nn.init.normal_(table.weight, std=0.02)
        self.bias = nn.Parameter(torch.zeros(n_movies))
        self.drop = nn.Dropout(recipe.dropout)
        block = nn.TransformerEncoderLayer(
            recipe.width,
            recipe.heads,
            2 * recipe.width,
            recipe.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.blocks = nn.TransformerEncoder(block, recipe.blocks, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(recipe.width)

    def forward(self, movie_BL: Tensor, stars_BL: Tensor) -> Tensor:
        """Hidden states [B, L, D]; the histories stand at the left."""
        length = movie_BL.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        h_BLD = self.movie(movie_BL) + self.stars(stars_BL) + self.place.weight[:length]
        found: Tensor = self.norm(self.blocks(self.drop(h_BLD), mask=mask, is_causal=True))
        return found


@dataclass(frozen=True)
class Ordered:
    """Training ratings by user and time. stars: 0, 1, ... by size."""

    history: History
    stars: Tensor
    value: Tensor
    popularity: Tensor
    n_movies: int

    @classmethod
    def of(cls, kept: pl.DataFrame, *, n_users: int, n_movies: int, like_from: float) -> "Ordered":
        history = History.of(kept, n_users=n_users)
        stars = torch.from_numpy(np.unique(history.rating.numpy(), return_inverse=True)[1])
        value = torch.where(history.rating >= like_from, 1.0, 0.3)
        popularity = torch.bincount(history.movie_idx, minlength=n_movies) / len(stars)
        return cls(history, stars, value, popularity, n_movies)

    def windows(self, users: Tensor, stop: Tensor, *, length: int) -> tuple[Tensor, Tensor]:
        """Rows of the `length` ratings before `stop` of each user [B, L], and which of them are there."""
        begin = torch.maximum(self.history.indptr[users], stop - length)
        row_BL = begin[:, None] + torch.arange(length)
        there_BL = row_BL < stop[:, None]
        return row_BL.clamp_max(len(self.stars) - 1), there_BL

    def inputs(self, row_BL: Tensor, there_BL: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(there_BL, self.history.movie_idx[row_BL].long() + 1, 0), self.stars[row_BL]


def fitted(data: Ordered, recipe: Recipe, *, seconds: float, seed: int) -> tuple[Attention, int]:
    """The rival after so much processor time, and its steps. The rate rises for a twentieth, then falls."""
    torch.manual_seed(seed)
    network = Attention(data.n_movies, int(data.stars.max()) + 1, recipe)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=0.01)
    users = torch.nonzero(data.history.indptr.diff() >= 2).squeeze(1)
    began, steps, spent = time.process_time(), 0, 0.0
    while spent < seconds:
        batch = users[torch.randint(len(users), (recipe.batch_users,))]
        loss = loss_of(network, data, batch, recipe)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        done = spent / seconds
        optimizer.param_groups[0]["lr"] = recipe.learning_rate * min(done / 0.05 + 0.01, 1.0) * (1 - done)
        optimizer.step()
        steps, spent = steps + 1, time.process_time() - began
    return network.eval(), steps


def loss_of(network: Attention, data: Ordered, users: Tensor, recipe: Recipe) -> Tensor:
    """Cross-entropy of what follows each place of a random window of each user's history."""
    start, stop = data.history.indptr[users], data.history.indptr[users + 1]
    last = start + recipe.length
    end = torch.where(stop > last, last + ((stop - last) * torch.rand(len(users))).ceil().long(), stop)
    row_BL, there_BL = data.windows(users, end - 1, length=recipe.length)
    ahead = torch.randint(1, recipe.horizon + 1, row_BL.shape)
    target_BL = torch.minimum(row_BL + ahead, stop[:, None] - 1)
    hidden_TD = network(*data.inputs(row_BL, there_BL))[there_BL]
    target_T = target_BL[there_BL]
    movie_T, weight_T = data.history.movie_idx[target_T].long(), data.value[target_T]

    # Half of the candidates are targets of others, half uniform; the chance of being one is taken off.
    half = recipe.candidates // 2
    drawn = torch.cat([movie_T[torch.randint(len(movie_T), (half,))], torch.randint(data.n_movies, (half,))])
    drawn = drawn.unique()
    corrected = network.bias - torch.log(-torch.expm1(-half * (data.popularity + 1 / data.n_movies)))
    vectors = network.movie.weight[1:]
    logits_TC = torch.addmm(corrected[drawn], hidden_TD, vectors[drawn].T)
    logits_TC = logits_TC.masked_fill(drawn == movie_T[:, None], -torch.inf)
    own_T = (hidden_TD * vectors[movie_T]).sum(dim=1) + corrected[movie_T]
    lost_T = torch.logaddexp(logits_TC.logsumexp(dim=1), own_T) - own_T
    found: Tensor = (weight_T * lost_T).sum() / weight_T.sum()
    return found


@torch.no_grad()
def scores(network: Attention, data: Ordered, recipe: Recipe) -> DotScores:
    """The last hidden state of each user, against every movie."""
    rows = []
    for users in torch.arange(data.history.n_users).split(256):
        row_BL, there_BL = data.windows(users, data.history.indptr[users + 1], length=recipe.length)
        last = (there_BL.sum(dim=1) - 1).clamp_min(0)
        rows.append(network(*data.inputs(row_BL, there_BL))[torch.arange(len(users)), last])
    return DotScores(torch.cat(rows), network.movie.weight[1:].detach(), network.bias.detach())


def compared(ratings: str, seeds: int, times: list[float], recipe: Recipe) -> list[dict[str, Any]]:
    """One row a system, seed and time."""
    config = Config(refit=False)
    with tempfile.TemporaryDirectory() as output:
        night = story.start(Inputs(ratings=ratings), output=output, config=config)
        prepared = story.prepare(night)
        story.hold_out(night, prepared)
        frame, held = night.frame("ratings"), night.frame("holdout")["held_out"]
    kept, test = frame.filter(~held), frame.filter(held)
    like_from = training.relevant_rating(config, y_range=prepared.y_range)
    data = Ordered.of(kept, n_users=prepared.n_users, n_movies=prepared.n_movies, like_from=like_from)
    seen = Pairs.of(kept["user_idx"].to_numpy(), kept["movie_idx"].to_numpy(), n_users=prepared.n_users)
    candidates = np.bincount(kept["movie_idx"].to_numpy(), minlength=prepared.n_movies) > 0

    def measured(system: str, seed: int, spent: float, found: DotScores, **more: Any) -> dict[str, Any]:
        metrics = evaluation.list_metrics(
            top_n(found, n=evaluation.K, seen=seen, candidates=candidates),
            evaluation.Holdout.of(test),
            relevant_rating=like_from,
            n_users=prepared.n_users,
            n_candidates=int(candidates.sum()),
        )
        row = {"system": system, "seed": seed, "cpu_s": spent, **more}
        row |= {name: metrics[name] for name in ("ndcg_at_10", "coverage")}
        print(json.dumps(row), file=sys.stderr, flush=True)
        return row

    rows = []
    for seed in range(seeds):
        began = time.process_time()
        ours = fit_ranking(
            data.history,
            n_movies=prepared.n_movies,
            config=training.ranking_config(config, y_range=prepared.y_range),
            seed=seed,
        )
        took = time.process_time() - began
        vectors = DotScores(ours.user_vectors(data.history), ours.movie_vectors, ours.movie_bias)
        rows.append(measured("ranking network", seed, took, vectors))
        for factor in times:
            network, steps = fitted(data, recipe, seconds=factor * took, seed=seed)
            found = scores(network, data, recipe)
            rows.append(measured(f"attention, {factor:g} x time", seed, factor * took, found, steps=steps))
    return rows


def main() -> int:
    """Print the means over seeds, and the 95 % intervals of the means."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--ratings", required=True, help="a data set: a folder of ratings, as for a night")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--times", type=float, nargs="+", default=[1.0, 10.0], help="of our processor time")
    parser.add_argument("--horizon", type=int, default=10, help="1 is SASRec's own target, the next rating")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    rows = compared(arguments.ratings, arguments.seeds, arguments.times, Recipe(horizon=arguments.horizon))
    if arguments.json:
        print(json.dumps({"rows": rows}))
        return 0
    for system in dict.fromkeys(row["system"] for row in rows):
        ndcg, seconds = (
            np.array([row[key] for row in rows if row["system"] == system]) for key in ("ndcg_at_10", "cpu_s")
        )
        half = 1.96 * ndcg.std(ddof=1) / len(ndcg) ** 0.5 if len(ndcg) > 1 else np.nan
        print(f"{system:<24}{seconds.mean():>8.1f} s{ndcg.mean():>9.4f} +-{half:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
