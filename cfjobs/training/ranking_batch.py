"""What a step of the ranking network looks at, how far off it is, and, on a processor, the step itself."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cfjobs.models.ranker import History, Past, RankingConfig, RankingModel
from cfjobs.training import ranking_kernels
from cfjobs.training.distributed import Processes
from cfjobs.training.sparse_adam import RowAdam
from cfjobs.training.threads import between


@dataclass(frozen=True)
class Batch:
    """What B users rated before a cut, and which of C candidates they rated after it, T each.

    All processes draw the same batch.
    """

    past: Past
    candidates: Tensor  # [C] movies, ascending
    column_BT: Tensor  # places of the targets among the candidates
    value_BT: Tensor  # what they are worth; sums to 1 per user
    correction_C: Tensor  # log(chance of being a candidate)

    @classmethod
    def drawn(
        cls,
        history: History,
        users: Tensor,
        mean: Tensor,
        *,
        value: Tensor,
        popularity: Tensor,
        config: RankingConfig,
        generator: torch.Generator,
        drawable: Tensor | None,
    ) -> "Batch":
        """A random cut of each user's history. value [R]: worth of each rating as a target. drawable: movies
        that may be drawn as candidates, all by default."""
        n_batch, n_movies, device = len(users), len(popularity), users.device
        start, stop = history.indptr[users], history.indptr[users + 1]
        n = stop - start
        fraction = 0.1 + 0.85 * torch.rand(n_batch, generator=generator, device=device)
        cut = start + torch.minimum((n * fraction).round().long().clamp_min(1), n - 1)
        past = Past.before(history, users, cut, mean, config=config, generator=generator)

        # Candidates: the batch's targets and uniform draws. log(chance of being one of them) is
        # taken off each score, so that the sampled softmax estimates the one over all movies.
        n_drawable = n_movies if drawable is None else len(drawable)
        draw = torch.randint(n_drawable, (config.n_negatives,), generator=generator, device=device)
        draw = draw if drawable is None else drawable[draw]
        found = _targets_by_torch if device.type == "cuda" else _targets
        of = (cut, stop, history.movie_idx, value, draw)
        candidates, column, worth, n_targets = found(of, n_movies=n_movies, next_n=config.next_n)
        expected = n_targets * popularity[candidates] + config.n_negatives / n_drawable
        return cls(past, candidates, column, worth, torch.log(-torch.expm1(-expected)))

    def touched(self, n_movies: int) -> dict[str, Tensor]:
        """The rows of each table that the batch touches, ascending."""
        of_past, _ = distinct(self.past.movie_idx, n_movies)
        return {
            "history_vectors": of_past,
            "movie_vectors": self.candidates,
            "movie_bias": self.candidates,
        }

    def loss(self, rows: dict[str, Tensor], idx: dict[str, Tensor], processes: Processes) -> Tensor:
        """Softmax cross-entropy of what followed the cut, differentiable; this process's part. rows: of each
        table, by `idx`, those that are touched."""
        n_users = len(self.value_BT)
        own = processes.own(n_users)
        place = torch.searchsorted(idx["history_vectors"], self.past.movie_idx)
        past = Past(place, self.past.weight, self.past.offsets).part(own)
        x_BD = past.encoded(rows["history_vectors"])
        logits_BC = torch.addmm(rows["movie_bias"] - self.correction_C, x_BD, rows["movie_vectors"].T)
        log_z_B = logits_BC.logsumexp(1)
        lost_BT = log_z_B[:, None] - logits_BC.gather(1, self.column_BT[own])
        return (self.value_BT[own] * lost_BT).sum() / n_users


@torch.no_grad()
def step_by_loops(
    batch: Batch, model: RankingModel, adam: RowAdam, pool: ThreadPoolExecutor, *, rate: float
) -> Tensor:
    """A step of Adam against the gradient of the batch's loss, which is returned: on a processor, alone, and
    without side features. What autograd would do, with the gradients written out and nothing copied."""
    n_users = len(batch.value_BT)
    x_BD = batch.past.encoded(model.history_vectors)
    q_CD = model.movie_vectors.index_select(0, batch.candidates)
    bias_C = model.movie_bias.index_select(0, batch.candidates) - batch.correction_C
    log_p_BC = torch.log_softmax(torch.addmm(bias_C, x_BD, q_CD.T), 1)
    loss = -(batch.value_BT * log_p_BC.gather(1, batch.column_BT)).sum() / n_users
    worth_BT = batch.value_BT / n_users
    grad_BC = log_p_BC.exp_().mul_(worth_BT.sum(1, keepdim=True))
    grad_BC.scatter_add_(1, batch.column_BT, -worth_BT)
    grad_BD = (grad_BC @ q_CD).numpy()

    adam.n_steps += 1
    grads = {"movie_vectors": grad_BC.T @ x_BD, "movie_bias": grad_BC.sum(0)}
    for name, grad in grads.items():
        adam.move(name, batch.candidates, grad, rate=rate, pool=pool)
    past = (batch.past.movie_idx, batch.past.weight, batch.past.offsets)
    by_movie = ranking_kernels.by_movie(*(part.numpy() for part in past), len(model.movie_bias))
    tables, pace = adam.arrays("history_vectors"), adam.pace(rate)
    between(
        pool,
        _even(by_movie[1]),
        lambda *part: ranking_kernels.move_histories(*tables, *by_movie, grad_BD, *pace, *part),
    )
    return loss


def _even(first: NDArray[np.int64]) -> list[int]:
    """Edges of ranges of movies with about equally much to do: a row to move, and its users to sum over.
    first [T + 1]: where the users of each movie begin."""
    cost, parts = first + 4 * np.arange(len(first)), max(1, min(8, len(first) // 256))
    found: list[int] = np.searchsorted(cost, np.linspace(0, cost[-1], parts + 1)[1:-1]).tolist()
    return [0, *found, len(first) - 1]


def _targets(
    of: tuple[Tensor, ...], *, n_movies: int, next_n: int
) -> tuple[Tensor, Tensor, Tensor, Tensor | int]:
    """See `ranking_kernels.targets`, which says what is given and found."""
    *found, n_targets = ranking_kernels.targets(*(part.numpy() for part in of), n_movies, next_n)
    candidates, column, worth = (torch.from_numpy(part) for part in found)
    return candidates, column, worth, n_targets


def _targets_by_torch(
    of: tuple[Tensor, ...], *, n_movies: int, next_n: int
) -> tuple[Tensor, Tensor, Tensor, Tensor | int]:
    """The same on a GPU."""
    cut, stop, movie_idx, value, draw = of
    row_BT = cut[:, None] + torch.arange(next_n, device=cut.device)
    exists_BT = row_BT < stop[:, None]
    row_BT = row_BT.clamp_max(len(movie_idx) - 1)
    target_BT = movie_idx[row_BT]
    value_BT = torch.where(exists_BT, value[row_BT], 0.0)
    value_BT = value_BT / value_BT.sum(1, keepdim=True).clamp_min(1e-6)
    candidates, column = distinct(torch.cat([target_BT[exists_BT], draw]), n_movies)
    return candidates, torch.where(exists_BT, column[target_BT], 0), value_BT, exists_BT.sum()


def distinct(idx: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The different values of idx, all below size, ascending; and by value its place among them [size]."""
    there = torch.zeros(size, dtype=torch.bool, device=idx.device)
    there[idx] = True
    return torch.nonzero(there).squeeze(1), there.cumsum(0) - 1
