"""The torch backend: any device, and nets of any depth."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from cfjobs.topn.problem import Job, Lists, Net, check_range, empty_lists, movie_rows, pairs_of, user_rows


class _TorchMovies(NamedTuple):
    """Candidate movies in order of their rows, so that position settles ties."""

    rows: Any  # [P, D] float32
    bias: Any  # [P] float32
    screen: Any  # [P, D + 2] float32: q, |q| and the bias with its error
    size: Any  # [D] float64, the largest |b| of each hidden unit of a net
    row_of: np.ndarray  # [P]
    position_of: np.ndarray  # [M]


def torch_batches(job: Job, *, device: str, memory_gb: float) -> Iterator[Lists]:
    """One product per block gives an upper bound of every score; the best K > N by it are scored exactly.

    What was left out is at most the K-th upper bound. Where that is below the N-th exact score the list
    is proven; the few other users (ties, mostly) are scored exactly against everything.
    """
    movies = _torch_movies(job, torch.device(device))
    n_positions = len(movies.row_of)
    width = 1 if job.net is None else max([len(job.net.hidden_bias)] + [len(b) for _, b in job.net.middle])
    room = int(memory_gb * 2**30 / 4 / (8 if job.net is None else 12 * width))  # scores in work at once
    block = max(1, min(n_positions, 65536, room))
    batch = max(1, min(8192, room // block))
    net = None if job.net is None else _torch_net(job.net, movies.rows.device)
    for first in range(job.users.start, job.users.stop, batch):
        last = min(first + batch, job.users.stop)
        rows = torch.from_numpy(user_rows(job, first, last)).to(movies.rows.device)
        user_of, position = _torch_taken(job, movies, first, last)
        movie_idx, score = empty_lists(last - first, job.width)
        if n_positions:
            places, values, proven = _torch_lists(job, rows, movies, net, user_of, position, block=block)
            again = np.flatnonzero(~proven)
            for at in range(0, len(again), max(1, batch // 4)):
                part = again[at : at + max(1, batch // 4)]
                place_of = np.full(last - first, -1)
                place_of[part] = np.arange(len(part))
                mine = place_of[user_of] >= 0
                places[part], values[part] = _torch_everything(
                    job, rows[torch.from_numpy(part).to(rows.device)], movies, net,
                    place_of[user_of[mine]], position[mine], block=max(1, block // 4),
                )  # fmt: skip
            listed = (values > -np.inf) & (values >= job.floor)
            movie_idx[:, : places.shape[1]] = np.where(listed, movies.row_of[places], -1)
            score[:, : places.shape[1]] = np.where(listed, values, -np.inf)
        yield Lists(first, movie_idx, score)


def _torch_movies(job: Job, device: Any) -> _TorchMovies:
    rows = movie_rows(job)[job.listed]
    bias = job.bias[job.listed]
    position_of = np.full(len(job.q), -1, np.int32)
    position_of[job.listed] = np.arange(len(job.listed), dtype=np.int32)
    wide = rows.astype(np.float64)
    norm = np.sqrt(np.square(wide).sum(axis=1))
    size = np.abs(wide).max(axis=0) if len(wide) else np.zeros(wide.shape[1])
    gamma = _product_error(device, rows.shape[1])
    upper_bias = bias + np.abs(bias.astype(np.float64)) * gamma * 1.1 + rows.shape[1] * 2.0**-124
    screen = np.concatenate([wide, norm[:, None] * (1 + 2.0**-20), upper_bias[:, None]], axis=1).astype(
        np.float32
    )
    rows_t, bias_t, screen_t = (torch.from_numpy(a).to(device) for a in (rows, bias, screen))
    return _TorchMovies(rows_t, bias_t, screen_t, torch.from_numpy(size).to(device), job.listed, position_of)


def _product_error(device: Any, terms: int) -> float:
    """g with |torch's float32 product - exact| <= g sum |x_d q_d|, whatever the order of summation.

    float32: each of the D + 2 products and sums rounds by 2^-24 at most, plus our own few roundings.
    TF32 keeps 10 bits after the leading one, bfloat16 7: each factor is off by 2^-10 or 2^-8 of itself at
    most (cut off, not even rounded), a product by twice that. A CUDA device may use TF32, and any device
    bfloat16 where `torch.set_float32_matmul_precision` is "medium".
    """
    medium = torch.get_float32_matmul_precision() == "medium"
    factors = 2.0**-7 if medium else 2.0**-9 if device.type == "cuda" else 0.0
    return ((terms + 16) * 2.0**-24 + factors) * 1.02


def _torch_net(net: Net, device: Any) -> list[tuple[Any, Any]]:
    """Every layer after the first, as (weight [H', H], bias [H']) in float32; the last has one row."""
    last = (net.output_weight[None], np.array([net.output_bias]))
    return [
        (torch.from_numpy(np.ascontiguousarray(w)).to(device), torch.from_numpy(np.asarray(b)).to(device))
        for w, b in (*net.middle, last)
    ]


def _torch_taken(job: Job, movies: _TorchMovies, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """User (within the batch) and position of every pair that must not be listed."""
    indptr, indices = pairs_of(job.seen, first, last, len(job.q))
    user_of = np.repeat(np.arange(last - first), np.diff(indptr))
    position = movies.position_of[indices].astype(np.int64)
    return user_of[position >= 0], position[position >= 0]


def _strike(score: Any, user_of: np.ndarray, position: np.ndarray, at: int) -> None:
    """Set the taken pairs among positions at, at + 1, ... of score [B, m] to -inf."""
    here = (position >= at) & (position < at + score.shape[1])
    users, columns = (torch.from_numpy(a).to(score.device) for a in (user_of[here], position[here] - at))
    score[users, columns] = -math.inf


def _torch_upper(rows: Any, movies: _TorchMovies, net: Any, at: int, block: int) -> Any:
    """An upper bound of the exact scores [B, m] of positions at..at + m - 1.

    Without a net: [x, g|x|, 1] . [q, |q|, b + g|b|], one product whose own error is in g.
    With one: the first sums and relus are float32 operations and equal the exact ones; each later layer
    adds g sum |w| h, and h is at most sum |w| h of the layer before, from |a| + max |b| on.
    """
    gamma = _product_error(rows.device, rows.shape[1])
    if net is None:
        norm = rows.double().square().sum(dim=1, keepdim=True).sqrt()
        check_range(float(norm.max() * movies.screen[:, -2].max() + movies.bias.abs().max()))
        left = torch.cat([rows, (norm * gamma * 1.02).float(), torch.ones_like(norm).float()], dim=1)
        return left @ movies.screen[at : at + block].T
    hidden = torch.relu(rows[:, None, :] + movies.rows[None, at : at + block, :])
    size = rows.abs().double() + movies.size
    error = torch.zeros_like(size)
    for layer, (weight, bias) in enumerate(net):
        hidden = hidden @ weight.T + bias.float()
        hidden = hidden if layer == len(net) - 1 else torch.relu(hidden)
        gamma = _product_error(rows.device, weight.shape[1])
        size = size @ weight.abs().double().T + bias.abs().double()
        error = error @ weight.abs().double().T + gamma * size + 2.0**-120
    check_range(float(size.max()))
    return hidden[..., 0] + (error * 1.02).float()


def _torch_exact(left: Any, right: Any, bias: Any, net: Any) -> Any:
    """Exact scores [B, m] of left [B, 1, D] with right [B or 1, m, D], in the one order."""
    if net is None:
        pairs = torch.broadcast_shapes(left.shape[:2], right.shape[:2])
        total = torch.zeros(pairs, dtype=torch.float64, device=left.device)
        for d in range(left.shape[2]):
            total = total + left[..., d].double() * right[..., d].double()
        return (total + bias.double()).float() + 0.0
    hidden = torch.relu(left + right)
    for layer, (weight, layer_bias) in enumerate(net):
        outputs = []
        for w, c in zip(weight, layer_bias, strict=True):
            total = torch.zeros(hidden.shape[:2], dtype=torch.float64, device=left.device)
            for j in range(hidden.shape[2]):
                total = total + hidden[..., j].double() * w[j].double()
            outputs.append((total + c.double()).float())
        hidden = torch.stack(outputs, dim=-1)
        hidden = hidden if layer == len(net) - 1 else torch.relu(hidden)
    return hidden[..., 0] + 0.0


def _top_k(score: Any, k: int) -> tuple[Any, Any]:
    """torch.topk, by the maxima of columns of 32 first where that pays; the k best are the same."""
    users, movies = score.shape
    columns = -(-movies // 32)
    if columns < 2 * k:
        return torch.topk(score, min(k, movies), dim=1)
    padded = torch.nn.functional.pad(score, (0, columns * 32 - movies), value=-math.inf)
    by_column = padded.view(users, columns, 32)
    chosen = torch.topk(by_column.amax(dim=2), k, dim=1).indices
    within = by_column.gather(1, chosen[:, :, None].expand(-1, -1, 32)).reshape(users, -1)
    value, place = torch.topk(within, k, dim=1)
    return value, (chosen.gather(1, place // 32) * 32 + place % 32).clamp_(max=movies - 1)


def _torch_lists(
    job: Job,
    rows: Any,
    movies: _TorchMovies,
    net: Any,
    user_of: np.ndarray,
    position: np.ndarray,
    *,
    block: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """places [B, N], scores [B, N] (-inf where short) and whether each list is proven, [B]."""
    n_positions = len(movies.row_of)
    k = min(n_positions, job.n + max(64, job.n // 2))
    upper: Any = None
    place: Any = None
    for at in range(0, n_positions, block):
        here = _torch_upper(rows, movies, net, at, block)
        _strike(here, user_of, position, at)
        value, index = _top_k(here, k)
        del here
        index = index + at
        if upper is not None:
            value, index = torch.cat([upper, value], dim=1), torch.cat([place, index], dim=1)
            value, best = torch.topk(value, min(k, value.shape[1]), dim=1)
            index = index.gather(1, best)
        upper, place = value, index
    place, order = place.sort(dim=1)
    upper = upper.gather(1, order)
    scores = []
    for at in range(0, k, 64):
        part = place[:, at : at + 64]
        scores.append(_torch_exact(rows[:, None, :], movies.rows[part], movies.bias[part], net))
    exact = torch.cat(scores, dim=1).masked_fill_(upper == -math.inf, -math.inf)
    exact, order = exact.sort(dim=1, descending=True, stable=True)
    rest = upper.min(dim=1).values
    enough = (
        torch.clamp(exact[:, job.n - 1], min=job.floor) if job.n <= k else torch.full_like(rest, -math.inf)
    )
    proven = (rest < enough) | (rest == -math.inf) | (k == n_positions)
    place = place.gather(1, order)[:, : job.n]
    return place.cpu().numpy(), exact[:, : job.n].cpu().numpy(), proven.cpu().numpy()


def _torch_everything(
    job: Job,
    rows: Any,
    movies: _TorchMovies,
    net: Any,
    user_of: np.ndarray,
    position: np.ndarray,
    *,
    block: int,
) -> tuple[np.ndarray, np.ndarray]:
    """places and scores of users whose lists no bound could prove: every score exactly."""
    value = torch.empty((len(rows), 0), dtype=torch.float32, device=rows.device)
    place = torch.empty((len(rows), 0), dtype=torch.int64, device=rows.device)
    for at in range(0, len(movies.row_of), block):
        right, bias = movies.rows[None, at : at + block], movies.bias[None, at : at + block]
        here = _torch_exact(rows[:, None, :], right, bias, net)
        _strike(here, user_of, position, at)
        index = torch.arange(at, at + here.shape[1], device=rows.device).expand_as(here)
        value, order = torch.cat([value, here], dim=1).sort(dim=1, descending=True, stable=True)
        place = torch.cat([place, index], dim=1).gather(1, order)[:, : job.n]
        value = value[:, : job.n]
    return place.cpu().numpy(), value.cpu().numpy()
