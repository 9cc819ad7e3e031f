"""Blocked SGD, a rating at a time on a processor: the training loop. The compiled loops are in
`blocked_sgd_kernels.py`, with their source.

The same model on any number of threads. What it is worth beside batches:
docs/decisions/0006-a-rating-at-a-time.md.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cfjobs.compiled import counted
from cfjobs.models.raters import Floats, Raters, sum_raters
from cfjobs.training import blocked_sgd_kernels
from cfjobs.training.checkpoint import Checkpoints, State
from cfjobs.training.epochs import EpochLoop, Examples
from cfjobs.training.threads import over

_SUM_STEPS = 8  # an epoch, of the rows that are summed
_SUM_BETAS = (0.8, 0.99)
_FIRST_A = 0.1  # squared gradients that a row starts with: bounds its first steps


@dataclass(frozen=True)
class _Pace:
    """Of the rows that are summed: their part of the learning rate and of the penalty; the biases' part of
    the penalty."""

    rate: float
    l2: float
    bias_l2: float


_RATERS, _BOTH = _Pace(rate=0.2, l2=0.5, bias_l2=1.0), _Pace(rate=0.1, l2=1.0, bias_l2=0.5)
_HOLD = 300  # ratings more than a movie has, for which its row in the users' sums pays L2


class BlockedSGD(EpochLoop):
    """A step is a round of blocks, after which, some times an epoch, the rows that are summed take theirs."""

    training = "blocked_sgd"

    def prepare(self) -> None:
        network, train, config = self.network, self.train, self.config
        rows = network.block_rows()
        assert rows is not None, "a network with a block_recipe has rows to train by it"
        low, high = (float(end) for end in rows.range.bounds())
        self.low, self.span = np.float32(low), np.float32(high - low)
        if not self.warm:  # the mean rating, which the penalised biases would otherwise have to carry
            fraction = (float(train.rating.mean()) - low) / max(high - low, 1e-6)
            fraction = min(max(fraction, 0.01), 0.99)  # without a padding, all ratings may be at an end
            rows.offset.fill_(math.log(fraction / (1 - fraction)))
        self.rows = rows
        n_users, n_movies = network.n_users, network.n_movies
        user, movie, rating = (part.numpy() for part in (train.user_idx, train.movie_idx, train.rating))
        self.blocks = blocked_sgd_kernels.Blocks.of(
            user,
            movie,
            rating,
            rows.value,
            np.ones_like(rating) if train.weight is None else train.weight.numpy(),
            raters=rows.raters,
            rated=rows.rated,
            row_bytes=3 * 4 * rows.movie[0].numel(),
            rng=np.random.default_rng(config.seed),
        )
        n_steps = min(_SUM_STEPS, self.blocks.n_blocks)
        self.rounds_a_step = -(-self.blocks.n_blocks // n_steps)
        n_members = rows.user.shape[1]
        self.squares = {
            "user": torch.full((n_users, n_members, 2), _FIRST_A),
            "movie": torch.full((n_movies, n_members, 2), _FIRST_A),
        }
        ratings_of_user = counted(user, n_users)
        both = len(rows.rated.users) > 0
        ratings_of_movie = counted(movie, n_movies)
        self.sums = (
            _Sums.of(rows.x, rows.raters, both, like=rows.movie, held=ratings_of_user),
            _Sums.of(rows.y, rows.rated, both, like=rows.user, held=ratings_of_movie + _HOLD),
        )
        self.pace = _BOTH if both else _RATERS
        self.in_use = self.sums if both else self.sums[:1]
        self.summed = False  # whether the sums are those of the rows as they are
        self.threads = torch.get_num_threads()

    def run_epoch(self, checkpoints: Checkpoints) -> None:
        n_blocks = self.blocks.n_blocks
        order = np.random.default_rng([self.config.seed, self.epoch]).permutation(n_blocks)
        with ThreadPoolExecutor(self.threads, thread_name_prefix="train") as pool:
            while self.step < n_blocks:
                if not self.summed:
                    self._sum(pool)
                self._round(pool, int(order[self.step]))
                self.step += 1
                if self.step % self.rounds_a_step == 0 or self.step == n_blocks:
                    self._step_summed(pool)
                    checkpoints.offer(self.state)
            self._sum(pool)  # for the loss, and for the next epoch

    @property
    def rate(self) -> float:
        """The learning rate of the round under way: falls in a line, a little after each round."""
        done = (self.epoch - 1 + self.step / self.blocks.n_blocks) / self.epochs
        return self.plan.learning_rate * (1 - done)

    def _round(self, pool: ThreadPoolExecutor, number: int) -> None:
        """Visit the blocks (i, i + number), which share nothing."""
        blocks, rows, n_blocks = self.blocks, self.rows, self.blocks.n_blocks
        start = np.random.default_rng([self.config.seed, self.epoch, number]).random(n_blocks)
        s, t = self.sums
        tables = [
            part.numpy()
            for part in (
                rows.user, rows.movie, rows.x, rows.y, s.sums, t.sums, s.gradients, t.gradients, s.own, t.own
            )
        ]  # fmt: skip
        both = len(rows.rated.users) > 0
        weights = [rows.raters.weight, rows.rated.weight]
        squares = [self.squares["user"].numpy(), self.squares["movie"].numpy()]
        l2 = self.plan.l2
        scalars = [
            np.float32(x)
            for x in (float(rows.offset), self.low, self.span, self.rate, l2, self.pace.bias_l2 * l2)
        ]  # fmt: skip

        def visit(i: int) -> float:
            block = i * n_blocks + (i + number) % n_blocks
            part = slice(blocks.first[block], blocks.first[block + 1])
            found: float = blocked_sgd_kernels.visit(
                blocks.user[part], blocks.movie[part], blocks.rating[part], blocks.value[part], blocks.weight[part],
                int(start[i] * (part.stop - part.start)),
                *tables, *weights, *squares, *scalars, both,
            )  # fmt: skip
            return found

        self.squared_error += sum(pool.map(visit, range(n_blocks))) / rows.user.shape[1]

    def _sum(self, pool: ThreadPoolExecutor) -> None:
        for sums in self.in_use:
            sums.add_up(pool)
        self.summed = True

    def _step_summed(self, pool: ThreadPoolExecutor) -> None:
        per_epoch = -(-self.blocks.n_blocks // self.rounds_a_step)
        number = (self.epoch - 1) * per_epoch + -(-self.step // self.rounds_a_step)
        share, pace = self.rounds_a_step / self.blocks.n_blocks, self.pace
        for sums in self.in_use:
            sums.step(pool, rate=pace.rate * self.rate, l2=pace.l2 * self.plan.l2 * share, number=number)
        self.summed = False

    def loss(self, examples: Examples) -> float:
        rows, (clip_low, clip_high) = self.rows, self.network.settings.y_range
        columns = [part.numpy() for part in (examples.user_idx, examples.movie_idx, examples.rating)]
        tables = [table.numpy() for table in (rows.user, rows.movie, *(sums.sums for sums in self.sums))]
        scalars = [np.float32(x) for x in (float(rows.offset), self.low, self.span, clip_low, clip_high)]

        def part(begin: int, end: int) -> float:
            found: float = blocked_sgd_kernels.squared_errors(
                *(c[begin:end] for c in columns), *tables, *scalars
            )
            return found

        with ThreadPoolExecutor(self.threads) as pool:
            total = math.fsum(over(pool, len(examples), part))
        return total / len(examples)

    def moments(self) -> dict[str, dict[str, Tensor]]:
        moments = {
            f"{name}_{order}": moment
            for name, sums in zip("xy", self.sums, strict=True)
            for order, moment in sums.moments.items()
        }
        return {"squares": self.squares, "moments": moments}

    def restore_moments(self, state: State) -> None:
        for name, own in self.moments().items():
            for key, tensor in state.part(name).items():
                own[key].copy_(tensor)


@dataclass
class _Sums:
    """The sums over rows x [U + 1, 2 K, D + 1] for each of M, what their gradients need, and the steps of x.

    So for the movies, over those who rated them; for the users, over what they rated, U and M the other way
    round. held [U]: for how many ratings a row pays L2 in an epoch.
    """

    x: Tensor
    raters: Raters
    both: bool
    sums: Tensor
    gradients: Tensor
    own: Tensor
    moments: dict[str, Tensor]
    held: Floats

    @classmethod
    def of(cls, x: Tensor, raters: Raters, both: bool, *, like: Tensor, held: NDArray[np.int64]) -> "_Sums":
        sums, gradients = torch.zeros_like(like), torch.zeros_like(like)
        moments = {"first": torch.zeros_like(x), "second": torch.zeros_like(x)}
        return cls(x, raters, both, sums, gradients, torch.zeros_like(x), moments, held.astype(np.float32))

    def add_up(self, pool: ThreadPoolExecutor) -> None:
        raters = self.raters
        rows = (self.sums.numpy(), self.x.numpy())
        arrays = (*rows, raters.users, raters.user_value, raters.first_user, raters.weight)
        over(pool, len(raters.last), lambda *part: sum_raters(*arrays, self.both, *part))

    def step(self, pool: ThreadPoolExecutor, *, rate: float, l2: float, number: int) -> None:
        """The step of this number, counted from 1, of Adam."""
        raters, (beta_1, beta_2) = self.raters, _SUM_BETAS
        tables = (self.x, self.moments["first"], self.moments["second"], self.gradients, self.own)
        arrays = [table.numpy() for table in tables]
        penalty = np.float32(l2) * self.held
        scalars = [np.float32(x) for x in (rate, beta_1, beta_2)]
        over(
            pool,
            len(raters.lot),
            lambda *part: blocked_sgd_kernels.step_summed(
                *arrays, penalty, raters.movies, raters.movie_value, raters.first_movie, raters.weight,
                *scalars, number, self.both, *part,
            ),
        )  # fmt: skip
        self.gradients.zero_()
