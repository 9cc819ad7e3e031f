"""Training of the ranking network (`cfjobs/models/ranker.py`):
steps of Adam on the rows that a batch of users touches.

On a processor a step is compiled loops and three products (`ranking_batch.py`); where movies have side
features, several processes train together, or on a GPU, autograd takes it.
"""

import logging
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass
from typing import Any

import torch
from torch import Tensor

from cfjobs.errors import TrainingDiverged
from cfjobs.features import Features
from cfjobs.models.ranker import History, RankingConfig, RankingModel, random_model
from cfjobs.models.side_features import HIDDEN_MOVIES, ValueEmbedding
from cfjobs.training.checkpoint import (
    NO_CHECKPOINTS,
    Checkpoints,
    State,
    optimizer_tensors,
    restore_optimizer,
)
from cfjobs.training.distributed import ALONE, Processes
from cfjobs.training.loop import TrainingLoop
from cfjobs.training.ranking_batch import Batch, step_by_loops
from cfjobs.training.sparse_adam import RowAdam
from cfjobs.training.threads import torch_threads

log = logging.getLogger(__name__)

_REPORT_EVERY = 100
_SMALL = 1 << 24  # multiplications of a product
_FALL = 0.99  # fraction of the learning rate that is gone at the end


@dataclass(frozen=True)
class Step:
    """One line of the training's record: the loss of a step, 0..of - 1."""

    step: int
    of: int
    loss: float


def fit_ranking(
    history: History,
    *,
    n_movies: int,
    config: RankingConfig = RankingConfig(),
    device: torch.device | str = "cpu",
    seed: int = 0,
    start: Callable[[RankingModel], RankingModel] | None = None,
    features: Features | None = None,
    on_step: Callable[[Step], None] | None = None,
    checkpoints: Checkpoints = NO_CHECKPOINTS,
    processes: Processes = ALONE,
) -> RankingModel:
    """The network after `config.n_steps` steps of Adam.

    A step takes a batch of users, cuts each one's history at a random point, and predicts the `next_n`
    ratings after the cut from those before it. start: makes the parameters to begin with from random ones,
    for a warm start. features: of the movies; a described movie without ratings is then ranked by them.
    `on_step` is called every 100 steps. Training goes on from the last of the checkpoints.

    Raises TrainingDiverged if the loss stops being finite.
    """
    loop = RankingLoop(
        history.to(torch.device(device)),
        n_movies=n_movies,
        config=config,
        seed=seed,
        start=start,
        features=features,
        processes=processes,
        on_step=on_step,
    )
    loop.run(checkpoints)
    return loop.learnt()


class RankingLoop(TrainingLoop[Step]):
    """Steps of the ranking network; every hundredth and the last are in the record."""

    def __init__(
        self,
        history: History,
        *,
        n_movies: int,
        config: RankingConfig,
        seed: int,
        start: Callable[[RankingModel], RankingModel] | None,
        features: Features | None,
        processes: Processes,
        on_step: Callable[[Step], None] | None,
    ) -> None:
        super().__init__(processes=processes, on_line=on_step)
        self.history, self.config = history, config
        self.warm = start is not None
        device = history.indptr.device
        self.generator = torch.Generator(device).manual_seed(seed)
        self.value = history.worth(config)
        popularity = torch.bincount(history.movie_idx, weights=self.value, minlength=n_movies) + 0.5
        self.popularity = (popularity / popularity.sum()).to(torch.float32)
        begin = random_model(self.popularity, config=config, generator=self.generator)
        if start is not None:
            begin = start(begin)
        tables = {
            name: tensor.detach().clone(memory_format=torch.contiguous_format).to(device)
            for name, tensor in begin.tensors().items()
        }
        self.model = RankingModel(**tables, config=config)
        self.adam = RowAdam(tables)
        self.side: MovieSide | None = None
        if features is not None:
            rated = torch.bincount(history.movie_idx, minlength=n_movies) > 0
            self.side = MovieSide(features, rated, config=config)
        self.by_loops = device.type == "cpu" and features is None and processes.size == 1
        self.mean = history.mean_rating()
        self.trainable = torch.nonzero(history.indptr.diff() >= 2).squeeze(1)  # a past and a future
        n_batch = min(max(config.batch_users, len(self.trainable) // 5), config.max_batch_users)
        self.n_batch = min(n_batch, len(self.trainable))
        self.queue = self.trainable[:0]
        self.n_steps = config.n_steps if len(self.trainable) else 0

    @property
    def place(self) -> str:
        return f"at ranking step {self.step}"

    @property
    def ended(self) -> bool:
        return self.step >= self.n_steps

    def run_round(self, checkpoints: Checkpoints) -> None:
        """The steps up to the next that is reported."""
        reported = False
        threads = 1 if self._is_small() else torch.get_num_threads()
        with torch_threads(threads), ThreadPoolExecutor(threads, thread_name_prefix="rank") as pool:
            while not reported:
                loss, number = self.take_step(pool), self.step - 1
                if reported := number % _REPORT_EVERY == 0 or self.ended:
                    line = Step(number, self.n_steps, self._finite(loss, number))
                    log.info("ranking step %d of %d, loss %.4f", line.step, line.of, line.loss)
                    self.report(line)
                checkpoints.offer(self.state)

    def _is_small(self) -> bool:
        """Whether one thread takes a step sooner than several, which wait for each other in each product."""
        candidates = min(len(self.popularity), self.config.n_negatives + self.n_batch * self.config.next_n)
        return self.by_loops and self.n_batch * candidates * self.config.n_factors < _SMALL

    def _finite(self, loss: Tensor, number: int) -> float:
        """The loss of a step over all processes. Raises TrainingDiverged where it is not finite."""
        value = float(self.processes.sum(loss))
        if not math.isfinite(value):
            raise TrainingDiverged(
                f"training: the ranking loss is {value} at step {number}; "
                f"lower ranking_learning_rate (now {self.config.learning_rate})"
            )
        return value

    def take_step(self, pool: ThreadPoolExecutor) -> Tensor:
        """One step of Adam; returns this process's part of the loss."""
        batch = self._next_batch()
        peak = self.config.learning_rate * max(1.0, self.n_batch / self.config.batch_users) ** 0.5
        rate = peak * (1 - _FALL * self.step / self.config.n_steps)
        if self.by_loops:
            loss = step_by_loops(batch, self.model, self.adam, pool, rate=rate)
        else:
            loss = self._step_by_autograd(batch, rate=rate)
        self.step += 1
        return loss

    def _step_by_autograd(self, batch: Batch, *, rate: float) -> Tensor:
        idx = batch.touched(len(self.popularity))
        rows = self.adam.rows(idx)
        used = self.side.added_to(rows, idx, self.model, generator=self.generator) if self.side else rows
        loss = batch.loss(used, idx, self.processes)
        loss.backward()
        self.processes.sum_gradients(rows.values())
        self.adam.step(idx, rows, rate=rate)
        if self.side:
            self.processes.sum_gradients([self.side.values.weight])
            self.side.step(rate=rate)
        return loss.detach()

    def _next_batch(self) -> Batch:
        return Batch.drawn(
            self.history,
            self._next_users(),
            self.mean,
            value=self.value,
            popularity=self.popularity,
            config=self.config,
            generator=self.generator,
            drawable=self.side.rated_idx if self.side else None,
        )

    @torch.no_grad()
    def learnt(self) -> RankingModel:
        """The model as it is now, with side features folded in."""
        model = self.side.folded_into(self.model) if self.side else self.model
        tensors = {name: tensor.detach() for name, tensor in model.tensors().items()}
        return RankingModel(**tensors, config=self.config)

    def _next_users(self) -> Tensor:
        while len(self.queue) < self.n_batch:
            device = self.queue.device
            shuffled = torch.randperm(len(self.trainable), generator=self.generator, device=device)
            self.queue = torch.cat([self.queue, self.trainable[shuffled]])
        users, self.queue = self.queue[: self.n_batch], self.queue[self.n_batch :]
        return users

    def fingerprint(self) -> dict[str, Any]:
        return {
            "ratings": len(self.history.rating),
            "users": self.history.n_users,
            "movies": len(self.popularity),
            "config": asdict(self.config),
            "processes": self.processes.size,
            "warm": self.warm,
            "features": self.side.values.weight.shape[0] if self.side else 0,
            "optimizer": "RowAdam",
        }

    def parts(self) -> dict[str, dict[str, Tensor]]:
        return {
            "model": self.model.tensors(),
            "adam": self.adam.state(),
            "random": {"generator": self.generator.get_state()},
            "users": {"queue": self.queue},
            "side": self.side.state() if self.side else {},
        }

    @torch.no_grad()
    def restore_parts(self, state: State) -> None:
        kept = state.part("model")
        for name, tensor in self.model.tensors().items():
            tensor.copy_(kept[name])
        self.adam.restore(state.part("adam"), n_steps=self.step)
        if self.side:
            self.side.restore(state.part("side"))
        self.generator.set_state(state.tensors["random/generator"])
        self.queue = state.tensors["users/queue"].to(self.queue.device)

    def position(self) -> dict[str, Any]:
        return {"record": [astuple(step) for step in self.record]}

    def restore_position(self, position: dict[str, Any]) -> None:
        self.record = [Step(*step) for step in position["record"]]


class MovieSide:
    """What side features add to a movie's embeddings and bias, while they are learnt.

    A described movie's own part is replaced now and then by the typical one, the mean of the rated movies',
    so that its features learn to do without it; a described movie without ratings is that typical part and
    its features.
    """

    def __init__(self, features: Features, rated: Tensor, *, config: RankingConfig) -> None:
        width = 2 * config.n_factors + 1
        self.values = ValueEmbedding(features, width, hidden=HIDDEN_MOVIES, device=rated.device)
        self.adam = torch.optim.Adam([self.values.weight], lr=config.learning_rate, fused=True)
        self.rated, self.rated_idx = rated, torch.nonzero(rated).squeeze(1)

    def added_to(
        self,
        rows: dict[str, Tensor],
        idx: dict[str, Tensor],
        model: RankingModel,
        *,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """Rows of the model's tables as one step uses them, differentiable. idx:
        which rows of each table they are."""
        every = torch.arange(len(self.rated), device=self.rated.device)
        shown = self.values.shown(every, generator=generator)[:, 0]
        sums = self._sums(self.values())
        return {
            name: self._typical_unless(shown[idx[name]], rows[name], table)
            + sums[name].index_select(0, idx[name])
            for name, table in model.tensors().items()
        }

    def folded_into(self, model: RankingModel) -> RankingModel:
        """The model for good."""
        sums = self._sums(self.values.filled(self.rated)[:-1])
        tables = {
            name: self._typical_unless(self.rated, own, own) + sums[name]
            for name, own in model.tensors().items()
        }
        return RankingModel(**tables, config=model.config)

    def step(self, *, rate: float) -> None:
        """Move the values' embeddings against their gradients."""
        self.adam.param_groups[0]["lr"] = rate
        self.adam.step()
        self.adam.zero_grad()

    def state(self) -> dict[str, Tensor]:
        """What was learnt, and the moments."""
        return {"values": self.values.weight, **optimizer_tensors(self.adam)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Stand where the state was taken."""
        self.values.weight.copy_(state.pop("values"))
        restore_optimizer(self.adam, state)

    def _typical_unless(self, shown: Tensor, own: Tensor, table: Tensor) -> Tensor:
        """Rows `own`, the mean of the rated movies' in `table` where they are not shown."""
        return torch.where(shown.view(-1, *[1] * (own.dim() - 1)), own, table[self.rated].mean(dim=0))

    def _sums(self, sums: Tensor) -> dict[str, Tensor]:
        """What the features add to each table [M, ...], from [M, 2 D + 1]."""
        width = (sums.shape[1] - 1) // 2
        history, movie, bias = sums.split([width, width, 1], dim=1)
        return {"history_vectors": history, "movie_vectors": movie, "movie_bias": bias[:, 0]}
