"""The Triton backend, for GPUs: product and selection in one kernel, so that no score is written to memory.

    mark      a bit for each pair that must not be listed, 32 movies to a word
    maxima    a product on the tensor cores; of each score a lower bound, of 32 movies the largest is written
              -> the N-th largest of a user's maxima: N movies are known to score at least this
    collect   the same product; of each score an upper bound, and the movies that reach the threshold
    exact     their scores in float64, factor by factor in order; the best N by (score, row)

What is not collected scores below N movies that are: the lists are proven as they are made. Some users have
more candidates than there is room for, as where movies tie: they go once more through a product of three
TF32 parts, whose bound is far tighter, and what is left is scored exactly against everything (`gpu.py`).

The movies are scanned in a random order, fixed by a seed, since catalogues have their best movies together:
then the maxima of 32 tell nearly as much as all scores.
"""

import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
import triton
from torch import Tensor

from cfjobs.topn import fused_kernels as kernels
from cfjobs.topn import gpu
from cfjobs.topn.problem import NO_MOVIE, Job, Lists, check_range, empty_lists, pairs_of, user_rows

log = logging.getLogger(__name__)

GROUP = 32
"""Movies of which one maximum is kept: as many as a word has bits."""

TILE = {"BM": 64, "BN": 128, "BK": 32, "num_warps": 4, "num_stages": 2}
"""Users, movies and factors that a program has in registers at a time: two programs fit a multiprocessor of
an H100, so that one multiplies while the other one selects."""

_BATCH = 16_384
_LARGEST = 2.0**120  # above it a bound might pass the largest float32: such users go the way of `gpu.py`
_TF32, _THREE_TF32 = "tf32", "tf32x3"


@cache
def runs_on(device: str) -> bool:
    """Whether Triton runs there, tried once: it compiles its kernels with a C compiler and Python's headers,
    which an image may lack."""
    one = torch.ones(1, dtype=torch.int64, device=device)
    try:
        kernels.mark[(1,)](one, one.int(), torch.zeros((2, 1), dtype=torch.int32, device=device), 1, 1)
    except Exception as error:  # whatever Triton, its compiler or the driver raise
        log.warning("Triton does not run on %s (%s); lists are made by torch's operations", device, error)
        return False
    return True


def fused_batches(job: Job, *, device: str, memory_gb: float) -> Iterator[Lists]:
    """As `top_n_batches`; for scores that are a dot product."""
    movies = _Movies.of(job, torch.device(device))
    per_user = 8 * movies.n_groups + 20 * movies.room + 16 * movies.rows.shape[1]
    batch = int(max(TILE["BM"], min(_BATCH, memory_gb * 2**30 / 2 / per_user)))
    waiting: deque[_Running] = deque()  # the device works on one batch while the next one is made ready
    for first in range(job.users.start, job.users.stop, batch):
        last = min(first + batch, job.users.stop)
        rows = user_rows(job, first, last)
        norm = np.sqrt(np.einsum("ud,ud->u", rows, rows, dtype=np.float64))
        check_range(largest := float(norm.max()) * movies.largest + movies.largest_bias)
        bounded = movies.n and largest < _LARGEST
        if bounded:
            waiting.append(
                _Running.begun(job, movies, _Users.of(job, movies, rows, norm, first=first), first)
            )
        while waiting and (len(waiting) > 1 or not bounded):
            yield waiting.popleft().ended()
        if not bounded:
            part = replace(job, users=range(first, last))
            yield from gpu.torch_batches(part, device=device, memory_gb=memory_gb)
    while waiting:
        yield waiting.popleft().ended()


# Movies and users as the kernels take them -----------------------------------------------------------


@dataclass(frozen=True)
class _Movies:
    """Candidate movies in the order of scanning, [P] padded to whole tiles; D padded to whole steps."""

    rows: Tensor  # [P, D] float32
    bias: Tensor  # [P] float32
    norm: Tensor  # [P] float32, |q| from above
    slack: Tensor  # [P] float32: the error of the bias, and of numbers below float32's normal range
    row_of: Tensor  # [P] int32
    position_of: Tensor  # [M] int32, -1 for a movie that may not be listed
    n: int  # candidates
    room: int  # candidates of a user that are kept for exact scores
    largest: float  # max |q|
    largest_bias: float

    @property
    def n_groups(self) -> int:
        return len(self.bias) // GROUP

    @classmethod
    def of(cls, job: Job, device: torch.device) -> "_Movies":
        order = job.listed[np.random.default_rng(0).permutation(len(job.listed))]
        n, factors = len(order), job.q.shape[1]
        row_of = torch.zeros(_up(max(n, 1), TILE["BN"]), dtype=torch.int32, device=device)
        row_of[:n] = torch.from_numpy(order).to(device)
        position_of = torch.full((len(job.q),), -1, dtype=torch.int32, device=device)
        position_of[row_of[:n].long()] = torch.arange(n, dtype=torch.int32, device=device)
        rows = torch.zeros((len(row_of), _up(factors, TILE["BK"])), device=device)
        rows[:n, :factors] = torch.from_numpy(job.q).to(device)[row_of[:n].long()]
        bias = torch.zeros(len(row_of), device=device)
        bias[:n] = torch.from_numpy(job.bias).to(device)[row_of[:n].long()]
        norm = rows.double().square().sum(dim=1).sqrt()
        slack = bias.abs().double() * 2.0**-20 + (norm + 1) * factors * 2.0**-124
        room = triton.next_power_of_2(max(4 * job.n, 512))
        return cls(
            rows=rows, bias=bias, norm=(norm * (1 + 2.0**-20)).float(), slack=slack.float(), row_of=row_of,
            position_of=position_of, n=n,
            room=room if len(row_of) // GROUP > job.n else max(room, triton.next_power_of_2(len(row_of))),
            largest=float(norm.max()), largest_bias=float(bias.abs().max()),
        )  # fmt: skip


@dataclass(frozen=True)
class _Users:
    """A batch of users, [B], and what must not be listed for them."""

    rows: Tensor  # [B, D] float32, D padded as the movies'
    norm: Tensor  # [B] float64
    taken: Tensor  # [B, groups] int32, a bit for each position

    @classmethod
    def of(cls, job: Job, movies: _Movies, rows: np.ndarray, norm: np.ndarray, *, first: int) -> "_Users":
        device, (n, factors) = movies.rows.device, rows.shape
        padded = torch.zeros((n, movies.rows.shape[1]), device=device)
        padded[:, :factors] = _sent(rows, device)
        taken = torch.zeros((n, movies.n_groups), dtype=torch.int32, device=device)
        indptr, indices = pairs_of(job.seen, first, first + n, len(job.q))
        if len(indices):
            counts = _sent(np.diff(indptr), device)
            user = torch.repeat_interleave(counts, output_size=len(indices))
            position = movies.position_of[_sent(indices, device).long()]
            kernels.mark[(triton.cdiv(len(indices), 1024),)](
                user, position, taken, len(indices), movies.n_groups
            )
        return cls(padded, _sent(norm, device), taken)

    def some(self, which: Tensor) -> "_Users":
        return _Users(self.rows[which], self.norm[which], self.taken[which])


def _sent(array: np.ndarray, device: torch.device) -> Tensor:
    """The array on the device, without waiting for what the device does."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _up(n: int, step: int) -> int:
    return -(-n // step) * step


# A batch ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Running:
    """A batch that the device may still be working on, and where its results will be."""

    job: Job
    movies: _Movies
    users: _Users
    first: int
    keys: Tensor  # [B, N]
    results: list[Tensor]  # movie_idx, score [B, N], counts [B]: in this machine's memory
    done: torch.cuda.Event | None

    @classmethod
    def begun(cls, job: Job, movies: _Movies, users: _Users, first: int) -> "_Running":
        keys, counts = _best(job, movies, users, precision=_TF32)
        there = (*_decoded(keys, floor=job.floor), counts)
        if keys.device.type != "cuda":
            return cls(job, movies, users, first, keys, list(there), None)
        results = [torch.empty_like(tensor, device="cpu", pin_memory=True) for tensor in there]
        for result, tensor in zip(results, there, strict=True):
            result.copy_(tensor, non_blocking=True)
        done = torch.cuda.Event()
        done.record()
        return cls(job, movies, users, first, keys, results, done)

    def ended(self) -> Lists:
        """The lists, once the device is done with them."""
        if self.done is not None:
            self.done.synchronize()
        movie_idx, score, counts = self.results
        crowded = torch.nonzero(counts > self.movies.room).squeeze(1).to(self.keys.device)
        if len(crowded):
            movie_idx, score = _decoded(self._with_room(crowded), floor=self.job.floor)
        found = movie_idx.cpu().numpy(), score.cpu().numpy()
        if found[0].shape[1] == self.job.width:
            return Lists(self.first, *found)
        wide = empty_lists(len(found[0]), self.job.width)
        for whole, part in zip(wide, found, strict=True):
            whole[:, : part.shape[1]] = part
        return Lists(self.first, *wide)

    def _with_room(self, crowded: Tensor) -> Tensor:
        """The keys, those of users with too many candidates made anew."""
        keys, movies = self.keys, self.movies
        again, counts = _best(self.job, movies, self.users.some(crowded), precision=_THREE_TF32)
        keys[crowded] = again
        for part in crowded[counts > movies.room].split(max(1, 2**24 // len(movies.bias))):
            users = self.users.some(part)
            keys[part] = _top(_exact_keys(movies, users, _free_positions(movies, users.taken)), self.job.n)
        return keys


def _decoded(keys: Tensor, *, floor: float) -> tuple[Tensor, Tensor]:
    """movie_idx and score of keys; -1 and -inf where there is none, or the score is below the floor."""
    high = keys >> 32
    score = (high ^ ((high >> 31) & 0x7FFFFFFF)).to(torch.int32).view(torch.float32)
    listed = (keys != _NOTHING) & (score >= floor)
    movie_idx = (0xFFFFFFFF - (keys & 0xFFFFFFFF)).to(torch.int32)
    return movie_idx.where(listed, NO_MOVIE), score.where(listed, -torch.inf)


_NOTHING = -(2**63)
"""The key of no movie, below all others."""


def _best(job: Job, movies: _Movies, users: _Users, *, precision: str) -> tuple[Tensor, Tensor]:
    """Keys of the N best of each user, [B, N], and how many candidates there were, [B]: where they are more
    than `room`, the keys are not to be used."""
    n_users, factors = users.rows.shape
    device = users.rows.device
    error = (users.norm * _product_error(factors, precision)).float()
    tiles = (triton.cdiv(n_users, TILE["BM"]), len(movies.bias) // TILE["BN"])
    vectors = (users.rows, movies.rows, movies.bias, movies.norm, movies.slack, error, users.taken)
    sizes = (n_users, movies.n, movies.n_groups)
    kind = {"FACTORS": factors, "PRECISION": precision, "GROUP": GROUP} | TILE
    threshold = torch.full((n_users,), job.floor, device=device)
    if movies.n_groups > job.n:
        maxima = torch.empty((n_users, movies.n_groups), device=device)
        kernels.maxima[tiles](*vectors, maxima, *sizes, **kind)
        reached = torch.topk(maxima, job.n, dim=1, sorted=True).values[:, -1]
        threshold = torch.maximum(threshold, reached)
    counts = torch.zeros(n_users, dtype=torch.int32, device=device)
    candidates = torch.empty((n_users, movies.room), dtype=torch.int32, device=device)
    kernels.collect[tiles](*vectors, threshold, counts, candidates, *sizes, movies.room, **kind)
    keys = torch.full((n_users, movies.room), _NOTHING, dtype=torch.int64, device=device)
    kernels.exact[(n_users, triton.cdiv(movies.room, 128))](
        users.rows,
        movies.rows,
        movies.bias,
        movies.row_of,
        candidates,
        counts,
        keys,
        movies.room,
        FACTORS=factors,
    )
    return _top(keys, job.n), counts


def _top(keys: Tensor, n: int) -> Tensor:
    return torch.topk(keys, min(n, keys.shape[1]), dim=1, sorted=True).values


def _free_positions(movies: _Movies, taken: Tensor) -> Tensor:
    """Whether each position may be listed, [B, P]."""
    bits = torch.arange(GROUP, dtype=torch.int32, device=taken.device)
    free = ((taken[:, :, None] >> bits) & 1).reshape(len(taken), -1) == 0
    free[:, movies.n :] = False
    return free


def _exact_keys(movies: _Movies, users: _Users, free: Tensor) -> Tensor:
    """Keys of all positions, [B, P]."""
    total = torch.zeros(free.shape, dtype=torch.float64, device=free.device)
    for d in range(users.rows.shape[1]):
        total += users.rows[:, d, None].double() * movies.rows[None, :, d].double()
    score = (total + movies.bias.double()).float() + 0.0
    bits = score.view(torch.int32)
    high = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    return torch.where(free, (high << 32) | (0xFFFFFFFF - movies.row_of.long()), _NOTHING)


def _product_error(factors: int, precision: str) -> float:
    """g with |product - exact| <= g |x| |q|.

    TF32 keeps 10 bits after the leading one: a factor that is cut off is off by 2^-10 of itself, a product by
    2^-9 and a little. Of three TF32 parts one product of remainders is left out and two have a remainder cut
    off: 3 x 2^-20. Tensor cores add a step of products after cutting them to the largest one's last bits, 22
    of them at least, so that each of the D terms loses 2^-22 twice, once as a product and once in a sum.
    """
    parts, cut = (1, 2.0**-9) if precision == _TF32 else (3, 2.0**-18)
    return (cut + parts * (2 * factors + 32) * 2.0**-22) * 1.02
