"""Blocked SGD, a rating at a time on a processor: the training loop. The compiled loops are in
`blocked_sgd_kernels.py`, with their source.

The same model on any number of threads and processes. What it is worth beside batches:
docs/decisions/0006-a-rating-at-a-time.md.
"""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from cfjobs.compiled import counted
from cfjobs.models.raters import add_raters, sum_raters
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
            processes=self.processes,
        )
        self.own_raters = self.raters.of_users(self.blocks.users) if self.processes.size > 1 else self.raters
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
                    self._offer(checkpoints)
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

        squared = torch.zeros(n_blocks, dtype=torch.float64)
        squared[blocks.own.start : blocks.own.stop] = torch.tensor(
            list(pool.map(visit, blocks.own)), dtype=torch.float64
        )
        self._share_movies(number)
        total = sum(self.processes.sum(squared).tolist()) / rows.user.shape[1]
        if self.processes.rank == 0:  # which tells the loss of all
            self.squared_error += total

    def _share_movies(self, number: int) -> None:
        """After a round: the movies' rows from the processes that moved them, to all."""
        if self.processes.size == 1:
            return
        visitor = (self.blocks.of_movie - number) % self.blocks.n_blocks
        moved = (visitor >= self.blocks.own.start) & (visitor < self.blocks.own.stop)
        own = torch.from_numpy(np.append(moved, self.processes.rank == 0))  # and the row of an unknown movie
        for table in (self.rows.movie, self.gradients, self.squares["movie"]):
            self.processes.share(table, own[: len(table)])

    def _share_users(self) -> None:
        """The users' rows from the processes that hold them, to all."""
        if self.processes.size == 1:
            return
        last = self.processes.rank == self.processes.size - 1
        users = self.blocks.users
        rows = torch.arange(len(self.rows.user))
        own = (rows >= users.start) & (rows < (len(rows) if last else users.stop))
        for table in (self.rows.user, self.rows.x, self.squares["user"], *self.rater_moments.values()):
            self.processes.share(table, own[: len(table)])

    def _offer(self, checkpoints: Checkpoints) -> None:
        """A checkpoint where one is due in the process that writes them."""
        if self.processes.size == 1:
            checkpoints.offer(self.state)
            return
        due = torch.tensor(float(self.processes.rank == 0 and checkpoints.due))
        if self.processes.sum(due) > 0:
            self._share_users()
            checkpoints.offer(self.state)

    def gather(self) -> None:
        self._share_users()

    def _sum_raters(self, pool: ThreadPoolExecutor) -> None:
        raters, n_movies = self.own_raters, self.network.n_movies
        arrays = (self.sums.numpy(), self.rows.x.numpy(), raters.users, raters.first_user)
        if self.processes.size == 1:
            over(pool, n_movies, lambda *part: sum_raters(*arrays, raters.weight, *part))
        else:  # in the order of one process: users follow each other by rank
            self.sums.zero_()
            self.processes.pass_on(
                self.sums, lambda: over(pool, n_movies, lambda *part: add_raters(*arrays, *part))
            )
            self.sums[:n_movies] *= torch.from_numpy(raters.weight)[:, None, None]
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
        users = self.blocks.users
        over(
            pool,
            len(users),
            lambda begin, end: blocked_sgd_kernels.step_raters(
                *arrays, self.ratings_a_step, raters.movies, raters.first_movie, raters.weight,
                *scalars, number, users.start + begin, users.start + end,
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

        if self.processes.size > 1:  # the rows of others' users are not as they are there
            users = self.blocks.users
            own = (columns[0] >= users.start) & (columns[0] < users.stop)
            columns = [column[own] for column in columns]
        with ThreadPoolExecutor(self.threads) as pool:
            total = math.fsum(over(pool, len(columns[0]), part))
        if self.processes.size > 1:
            total = float(self.processes.sum(torch.tensor(total, dtype=torch.float64)))
        return total / len(examples)

    def moments(self) -> dict[str, dict[str, Tensor]]:
        return {"squares": self.squares, "moments": self.rater_moments}

    def restore_moments(self, state: State) -> None:
        if self.processes.rank > 0:
            self.squared_error.zero_()
        for own, name in ((self.squares, "squares"), (self.rater_moments, "moments")):
            for key, tensor in state.part(name).items():
                own[key].copy_(tensor)
