"""Laws of the ranking network's training."""

from concurrent.futures import ThreadPoolExecutor

import polars as pl
import pytest
import torch
from torch import Tensor

from cfjobs.models.ranker import History, Past, RankingConfig, RankingModel, _weighed_by_torch
from cfjobs.training import ranker
from cfjobs.training.ranker import RankingLoop, fit_ranking
from cfjobs.training.ranking_batch import Batch, _targets_by_torch
from cfjobs.training.sparse_adam import RowAdam, _move_by_torch


def steps(n: int, *, every_row: bool) -> list[tuple[Tensor, Tensor]]:
    """Rows of a table [20, 3] and their gradients, step by step."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(n):
        rows = torch.randperm(20, generator=generator)[: 20 if every_row else 6].sort().values
        found.append((rows, torch.randn(len(rows), 3, generator=generator)))
    return found


def after(taken: list[tuple[Tensor, Tensor]], table: Tensor) -> Tensor:
    adam = RowAdam({"table": table.clone()})
    for idx, grad in taken:
        rows = adam.rows({"table": idx})
        rows["table"].grad = grad
        adam.step({"table": idx}, rows, rate=0.1)
    return adam.tables["table"]


def test_row_adam_is_sparse_adam() -> None:
    table, taken = torch.ones(20, 3), steps(30, every_row=False)
    theirs = table.clone()
    peer = torch.optim.SparseAdam([theirs], lr=0.1)
    for idx, grad in taken:
        theirs.grad = torch.sparse_coo_tensor(idx[None], grad, table.shape, check_invariants=True).coalesce()
        peer.step()
    torch.testing.assert_close(after(taken, table), theirs)


def test_row_adam_of_every_row_is_adam() -> None:
    table, taken = torch.ones(20, 3), steps(30, every_row=True)
    theirs = table.clone()
    peer = torch.optim.Adam([theirs], lr=0.1)
    for idx, grad in taken:
        theirs.grad = torch.empty_like(grad).index_copy_(0, idx, grad)
        peer.step()
    torch.testing.assert_close(after(taken, table), theirs)


@pytest.mark.parametrize("shape", [(900, 5), (900,)], ids=["vectors", "a bias"])
def test_row_adam_on_a_processor_is_that_of_a_gpu(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(shape, generator=generator)
    which = torch.randperm(900, generator=generator)[:850].sort().values
    taken = [(which, torch.randn(shape, generator=generator)[:850]) for _ in range(3)]
    by_loop = after(taken, table)
    monkeypatch.setattr(RowAdam, "move", by_torch)
    torch.testing.assert_close(by_loop, after(taken, table), rtol=1e-5, atol=1e-6)


def by_torch(adam: RowAdam, name: str, which: Tensor, grad: Tensor, *, rate: float) -> None:
    tables = (adam.tables[name], adam.mean[name], adam.square[name])
    _move_by_torch(*tables, which, tables[0].index_select(0, which), grad, pace=adam.pace(rate))


def ratings(user: torch.Tensor, movie: torch.Tensor, rating: torch.Tensor) -> pl.DataFrame:
    """By user; of one user in the order in which they came."""
    columns = {"user_idx": user, "movie_idx": movie, "rating": rating}
    frame = pl.DataFrame({name: column.numpy() for name, column in columns.items()})
    return frame.sort("user_idx", maintain_order=True)


def history(*lengths: int) -> History:
    """Users with so many ratings, of movies 0, 1, 2, ... of 9."""
    user = torch.repeat_interleave(torch.tensor(lengths))
    movie = torch.cat([torch.arange(n) % 9 for n in lengths])
    rating = (movie % 5 + 1).float()
    return History.of(ratings(user, movie, rating), n_users=len(lengths))


def test_a_part_of_a_past_encodes_as_the_whole_does() -> None:
    found, config = history(3, 0, 7, 1, 5), RankingConfig(n_factors=4)
    users = torch.arange(5)
    past = Past.before(
        found, users, found.indptr[1:], found.mean_rating(), config=config, generator=torch.Generator()
    )
    vectors = torch.randn(9, 4)
    whole = past.encoded(vectors)
    for cut in range(6):
        parts = [past.part(slice(0, cut)).encoded(vectors), past.part(slice(cut, 5)).encoded(vectors)]
        torch.testing.assert_close(torch.cat(parts), whole)


@pytest.mark.parametrize("drop", [0.0, 0.99])
def test_a_user_of_two_ratings_is_enough_and_none_is_no_error(drop: float) -> None:
    config = RankingConfig(n_factors=4, n_steps=5, history_drop=drop)
    for lengths in ((2,), (2, 0), (1, 1), (0,)):
        model = fit_ranking(history(*lengths), n_movies=9, config=config)
        assert all(bool(tensor.isfinite().all()) for tensor in model.tensors().values())


@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_what_loops_draw_is_what_a_gpu_draws(drop: float, monkeypatch: pytest.MonkeyPatch) -> None:
    found, config = history(3, 0, 30, 2, 700), RankingConfig(n_factors=4, history_drop=drop, n_negatives=5)

    def batch() -> Batch:
        return Batch.drawn(
            found,
            torch.tensor([2, 4, 3, 0]),
            found.mean_rating(),
            value=found.worth(config),
            popularity=torch.full((9,), 1 / 9),
            config=config,
            generator=torch.Generator().manual_seed(1),
            drawable=None,
        )

    by_loops = batch()
    monkeypatch.setattr("cfjobs.models.ranker._weighed", _weighed_by_torch)
    monkeypatch.setattr("cfjobs.training.ranking_batch._targets", _targets_by_torch)
    torch.testing.assert_close(vars(by_loops.past), vars(batch().past))
    for name in ("candidates", "column_BT", "value_BT", "correction_C"):
        torch.testing.assert_close(getattr(by_loops, name), getattr(batch(), name))


def test_a_step_by_loops_is_that_of_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    found, config = (
        history(*range(2, 60)),
        RankingConfig(n_factors=8, n_steps=7, batch_users=20, n_negatives=6),
    )
    losses: list[list[float]] = [[], []]

    def fitted(into: list[float]) -> RankingModel:
        return fit_ranking(found, n_movies=9, config=config, on_step=lambda step: into.append(step.loss))

    by_loops = fitted(losses[0])
    monkeypatch.setattr(RankingLoop, "take_step", by_autograd)
    for name, tensor in fitted(losses[1]).tensors().items():
        torch.testing.assert_close(by_loops.tensors()[name], tensor, rtol=1e-4, atol=1e-5)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


take_step = RankingLoop.take_step


def by_autograd(loop: RankingLoop, pool: ThreadPoolExecutor) -> Tensor:
    loop.by_loops = False
    return take_step(loop, pool)


@pytest.mark.parametrize("small", [0, 1 << 24], ids=["threads", "one thread for a small step"])
def test_a_training_is_the_same_on_any_number_of_threads(small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranker, "_SMALL", small)
    found, config = (
        history(*range(2, 60)),
        RankingConfig(n_factors=8, n_steps=7, batch_users=20, n_negatives=6),
    )
    before, models = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        models.append(fit_ranking(found, n_movies=9, config=config).tensors())
    torch.set_num_threads(before)
    assert all(torch.equal(models[0][name], other[name]) for other in models[1:] for name in other)
