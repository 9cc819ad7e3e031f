"""Blocked SGD, a rating at a time on a processor: the training loop. The compiled loops are in
`blocked_sgd_kernels.py`, with their source.

The same model on any number of threads. What it is worth beside batches:
docs/decisions/0006-a-rating-at-a-time.md.
"""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from cfjobs.compiled import counted
from cfjobs.models.raters import sum_raters
from cfjobs.training import blocked_sgd_kernels
from cfjobs.training.checkpoint import Checkpoints, State
from cfjobs.training.epochs import EpochLoop, Examples
from cfjobs.training.threads import over

_RATER_STEPS = 8  # an epoch
_RATER_RATE = 0.2  # of the learning rate
_RATER_L2 = 0.5  # of the penalty
_RATER_BETAS = (0.8, 0.99)
_FIRST_A = 0.1  # squared gradients that a row starts with: bounds its first steps


class BlockedSGD(EpochLoop):
    """A step is a round of blocks, after which, some times an epoch, the raters' rows take theirs."""

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
        self.raters = rows.raters
        n_users, n_movies = network.n_users, network.n_movies
        user, movie, rating = (part.numpy() for part in (train.user_idx, train.movie_idx, train.rating))
        self.blocks = blocked_sgd_kernels.Blocks.of(
            user,
            movie,
            rating,
            raters=rows.raters,
            row_bytes=3 * 4 * rows.movie[0].numel(),
            rng=np.random.default_rng(config.seed),
        )
        n_steps = min(_RATER_STEPS, self.blocks.n_blocks)
        self.rounds_a_step = -(-self.blocks.n_blocks // n_steps)
        self.ratings_a_step = counted(user, n_users).astype(np.float32)
        self.ratings_a_step *= self.rounds_a_step / self.blocks.n_blocks
        n_members = rows.user.shape[1]
        self.squares = {
            "user": torch.full((n_users, n_members, 2), _FIRST_A),
            "movie": torch.full((n_movies, n_members, 2), _FIRST_A),
        }
        self.sums = torch.zeros_like(rows.movie)
        self.summed = False  # whether they are those of the raters' rows as they are
        self.gradients = torch.zeros_like(rows.movie)
        self.own = torch.zeros_like(rows.x)
        self.rater_moments = {"first": torch.zeros_like(rows.x), "second": torch.zeros_like(rows.x)}
        self.threads = torch.get_num_threads()

    def run_epoch(self, checkpoints: Checkpoints) -> None:
        n_blocks = self.blocks.n_blocks
        order = np.random.default_rng([self.config.seed, self.epoch]).permutation(n_blocks)
        with ThreadPoolExecutor(self.threads, thread_name_prefix="train") as pool:
            while self.step < n_blocks:
                if not self.summed:
                    self._sum_raters(pool)
                self._round(pool, int(order[self.step]))
                self.step += 1
                if self.step % self.rounds_a_step == 0 or self.step == n_blocks:
                    self._step_raters(pool)
                    checkpoints.offer(self.state)
            self._sum_raters(pool)  # for the loss, and for the next epoch

    @property
    def rate(self) -> float:
        """The learning rate of the round under way: falls in a line, a little after each round."""
        done = (self.epoch - 1 + self.step / self.blocks.n_blocks) / self.epochs
        return self.plan.learning_rate * (1 - done)

    def _round(self, pool: ThreadPoolExecutor, number: int) -> None:
        """Visit the blocks (i, i + number), which share nothing."""
        blocks, rows, raters, n_blocks = self.blocks, self.rows, self.raters, self.blocks.n_blocks
        start = np.random.default_rng([self.config.seed, self.epoch, number]).random(n_blocks)
        tables = [t.numpy() for t in (rows.user, rows.movie, rows.x, self.sums, self.gradients, self.own)]
        squares = [self.squares["user"].numpy(), self.squares["movie"].numpy()]
        scalars = [np.float32(x) for x in (float(rows.offset), self.low, self.span, self.rate, self.plan.l2)]

        def visit(i: int) -> float:
            block = i * n_blocks + (i + number) % n_blocks
            part = slice(blocks.first[block], blocks.first[block + 1])
            found: float = blocked_sgd_kernels.visit(
                blocks.user[part], blocks.movie[part], blocks.rating[part], int(start[i] * (part.stop - part.start)),
                *tables, raters.weight, *squares, *scalars,
            )  # fmt: skip
            return found

        self.squared_error += sum(pool.map(visit, range(n_blocks))) / rows.user.shape[1]

    def _sum_raters(self, pool: ThreadPoolExecutor) -> None:
        raters = self.raters
        arrays = (self.sums.numpy(), self.rows.x.numpy(), raters.users, raters.first_user, raters.weight)
        over(pool, self.network.n_movies, lambda *part: sum_raters(*arrays, *part))
        self.summed = True

    def _step_raters(self, pool: ThreadPoolExecutor) -> None:
        raters, (beta_1, beta_2) = self.raters, _RATER_BETAS
        per_epoch = -(-self.blocks.n_blocks // self.rounds_a_step)
        number = (self.epoch - 1) * per_epoch + -(-self.step // self.rounds_a_step)
        arrays = [
            t.numpy()
            for t in (
                self.rows.x,
                self.rater_moments["first"],
                self.rater_moments["second"],
                self.gradients,
                self.own,
            )
        ]
        scalars = [
            np.float32(x)
            for x in (_RATER_RATE * self.rate, _RATER_L2 * self.plan.l2, beta_1, beta_2)
        ]  # fmt: skip
        over(
            pool,
            self.network.n_users,
            lambda *part: blocked_sgd_kernels.step_raters(
                *arrays, self.ratings_a_step, raters.movies, raters.first_movie, raters.weight,
                *scalars, number, *part,
            ),
        )  # fmt: skip
        self.gradients.zero_()
        self.summed = False

    def loss(self, examples: Examples) -> float:
        rows, (clip_low, clip_high) = self.rows, self.network.settings.y_range
        columns = [part.numpy() for part in (examples.user_idx, examples.movie_idx, examples.rating)]
        tables = [table.numpy() for table in (rows.user, rows.movie, self.sums)]
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
        return {"squares": self.squares, "moments": self.rater_moments}

    def restore_moments(self, state: State) -> None:
        for own, name in ((self.squares, "squares"), (self.rater_moments, "moments")):
            for key, tensor in state.part(name).items():
                own[key].copy_(tensor)
