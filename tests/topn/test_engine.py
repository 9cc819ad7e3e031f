"""The law: whatever the batch, block, thread, order or backend, the lists equal NumPy's brute force."""

import importlib.util
import itertools
import os

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cfjobs.topn import cpu as by_numba
from cfjobs.topn import kernel
from cfjobs.topn import packing as pack
from cfjobs.topn.engine import top_n_batches
from cfjobs.topn.problem import Net, Pairs, affine

ENGINES = [("numba", "int8"), ("numba", "float32"), ("torch", "auto")]
if not kernel.HAS_VNNI:
    ENGINES = ENGINES[1:]
if importlib.util.find_spec(
    "triton"
):  # comes with torch for CUDA; its interpreter runs the same kernels without a GPU
    ENGINES += [("triton", "auto")]
    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"
engines = pytest.mark.parametrize(("backend", "screen"), ENGINES)
laws = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def brute_scores(x, q, bias=None):
    total = np.zeros((len(x), len(q)))
    for d in range(x.shape[1]):
        total += x[:, d, None].astype(np.float64) * q[None, :, d].astype(np.float64)
    return (total if bias is None else total + bias.astype(np.float64)).astype(np.float32)


def brute_net_scores(x, q, net):
    def dense(h, weight, bias):  # h [U, M, H]
        total = np.zeros((*h.shape[:2], len(weight)))
        for j in range(h.shape[2]):
            total += h[:, :, j, None].astype(np.float64) * weight[:, j].astype(np.float64)
        return (total + np.asarray(bias, np.float64)).astype(np.float32)

    a = affine(x, net.user_weight, net.hidden_bias)
    b = affine(q, net.movie_weight, np.zeros_like(net.hidden_bias))
    h = np.maximum(a[:, None] + b[None], 0)
    for weight, bias in net.middle:
        h = np.maximum(dense(h, weight, bias), 0)
    return dense(h, net.output_weight[None], [net.output_bias])[:, :, 0]


def top_n(x, q, *, n, **options):
    """movie_idx and score [U, N] of all users at once."""
    if options.get("backend") == "triton" and torch.cuda.is_available():
        options["device"] = "cuda"
    batches = list(top_n_batches(x, q, n=n, **options))
    if not batches:
        return np.empty((0, n), np.int32), np.empty((0, n), np.float32)
    return np.concatenate([b.movie_idx for b in batches]), np.concatenate([b.score for b in batches])


def brute_lists(scores, *, n, seen=None, candidates=None, min_score=None):
    idx = np.full((len(scores), n), -1, np.int32)
    out = np.full((len(scores), n), -np.inf, np.float32)
    for u, row in enumerate(scores):
        allowed = np.ones(len(row), bool) if candidates is None else candidates.copy()
        if seen is not None:
            allowed[seen.indices[seen.indptr[u] : seen.indptr[u + 1]]] = False
        if min_score is not None:
            allowed &= row >= min_score
        best = np.flatnonzero(allowed)
        best = best[np.argsort(-row[best], kind="stable")][:n]
        idx[u, : len(best)], out[u, : len(best)] = best, row[best]
    return idx, out


def random_pairs(rng, users, movies, share):
    mask = rng.random((users, movies)) < share
    return Pairs(
        np.append(0, mask.sum(axis=1).cumsum()).astype(np.int64), np.nonzero(mask)[1].astype(np.int32)
    )


def assert_same(got, expected):
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_array_equal(got[1], expected[1])


@st.composite
def jobs(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    users, movies = draw(st.integers(1, 40)), draw(st.sampled_from([1, 2, 63, 64, 65, 500, 513, 3000]))
    factors = draw(st.sampled_from([1, 2, 3, 4, 7, 8, 16, 33, 64]))
    kind = draw(
        st.sampled_from(["normal", "spread", "ties", "copies", "zeros", "shuffled", "tiny", "huge", "mixed"])
    )
    x, q = rng.standard_normal((users, factors)), rng.standard_normal((movies, factors))
    bias = rng.standard_normal(movies)
    if kind == "spread":
        x, q = (
            x * np.exp(2 * rng.standard_normal((users, 1))),
            q * np.exp(2 * rng.standard_normal((movies, 1))),
        )
    elif kind == "ties":
        x, q, bias = np.rint(x), np.rint(q), np.rint(bias)
    elif kind == "copies":
        q = q[rng.integers(0, max(1, movies // 50), movies)]
        bias = bias * 0
    elif kind == "zeros":
        x, q, bias = x * (rng.random((users, 1)) < 0.5), q * (rng.random((movies, 1)) < 0.1), bias * 0
    elif kind == "shuffled":  # equal sums in another order: a screen in float32 finds them different
        x = np.repeat(x[:, :1], factors, axis=1)
        q, bias = rng.permuted(np.repeat(q[: 1 + movies // 1000], 1000, axis=0)[:movies], axis=1), bias * 0
    elif kind == "tiny":
        x, q, bias = x * 1e-30, q * 1e-12, bias * draw(st.sampled_from([0, 1e-40, 1.0]))
    elif kind == "huge":
        x, q, bias = x * 1e18, q * 1e17, bias * draw(st.sampled_from([0, 1.0, 1e35]))
    elif kind == "mixed":
        x = x * 10.0 ** rng.integers(-30, 18, (users, 1))
        q = q * 10.0 ** rng.integers(-30, 18, (movies, 1))
    seen = None
    if draw(st.booleans()):
        seen = random_pairs(rng, users, movies, draw(st.sampled_from([0, 0.1, 0.9, 1])))
        if draw(st.booleans()):
            seen = seen.joined(random_pairs(rng, users, movies, 0.05))
    options = {
        "n": draw(st.sampled_from([1, 2, 10, 100, 600])),
        "seen": seen,
        "candidates": rng.random(movies) < 0.5 if draw(st.booleans()) else None,
    }
    movie_bias = bias.astype(np.float32) if draw(st.booleans()) else None
    return x.astype(np.float32), q.astype(np.float32), movie_bias, options


@engines
@laws
@given(
    job=jobs(), threads=st.integers(1, 3), memory_gb=st.sampled_from([0.0001, 0.02, 1.0]), cut=st.booleans()
)
def test_equals_brute_force(backend, screen, job, threads, memory_gb, cut):
    x, q, bias, options = job
    scores = brute_scores(x, q, bias)
    if cut:
        options["min_score"] = float(np.median(scores))
    got = top_n(
        x, q, movie_bias=bias, backend=backend, screen=screen, threads=threads, memory_gb=memory_gb, **options
    )
    assert_same(got, brute_lists(scores, **options))


@pytest.mark.skipif(not kernel.HAS_VNNI, reason="no int8 screen here")
@pytest.mark.parametrize("lost_by", ["user", "movie"])
def test_int8_bound_holds_when_all_rounding_points_one_way(lost_by):
    """Ten movies whose score is lost in rounding to bytes, among small ones that score 0.7 of it."""
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((64, 64)))[0]
    rough = np.random.default_rng(1).integers(-126, 127, 64) + 0.0
    rough[0] = 127  # so that a step is 1
    sign, total = np.ones(64), 0.0
    for d in np.argsort(-abs(rough)):  # signs that all but cancel the whole numbers
        sign[d] = -1 if total * rough[d] > 0 else 1
        total += sign[d] * rough[d]
    rough[1:] += 0.45 * sign[1:]
    x, hidden = (rough, 127 * sign) if lost_by == "user" else (127 * sign, rough)
    small = 0.7 * (x @ hidden) / (x @ x) * x
    q = np.concatenate([np.tile(small, (600, 1)), np.tile(-small, (600, 1)), np.tile(hidden, (10, 1))])
    x, q = ((a @ rotation.T).astype(np.float32) for a in (x[None], q))
    got = top_n(x, q, n=10, screen="int8")
    assert_same(got, brute_lists(brute_scores(x, q), n=10))
    assert (got[0] >= 1200).all()


@engines
def test_sampled_threshold_too_high_is_found_out(backend, screen, monkeypatch):
    rng = np.random.default_rng(0)
    x, q = (rng.standard_normal((s, 8)).astype(np.float32) for s in (50, 6000))
    monkeypatch.setattr(pack, "_sample_plan", lambda *_: (2, 2))  # about 12 of the 30 wanted
    assert_same(top_n(x, q, n=30, backend=backend, screen=screen), brute_lists(brute_scores(x, q), n=30))


@pytest.mark.parametrize("batch", [6, 48, 192])
def test_batches_and_shards_agree(monkeypatch, batch):
    rng = np.random.default_rng(1)
    x, q = (rng.standard_normal((s, 16)).astype(np.float32) for s in (300, 2000))
    seen = random_pairs(rng, 300, 2000, 0.05)
    expected = brute_lists(brute_scores(x, q), n=20, seen=seen)
    monkeypatch.setattr(by_numba, "BATCH", batch)
    monkeypatch.setattr(by_numba, "GROUP", batch)
    shards = [
        list(top_n_batches(x, q, n=20, seen=seen, users=r))
        for r in (range(0, 101), range(101, 101), range(101, 300))
    ]
    batches = [b for shard in shards for b in shard]
    assert [b.first_user for b in batches] == sorted(b.first_user for b in batches)
    got = (np.concatenate([b.movie_idx for b in batches]), np.concatenate([b.score for b in batches]))
    assert_same(got, expected)


def random_net(rng, hidden, factors, middle=()):
    sizes = [hidden, *middle]
    array = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    layers = tuple((array(b, a), array(b)) for a, b in itertools.pairwise(sizes))
    return Net(
        user_weight=array(hidden, factors), movie_weight=array(hidden, factors), hidden_bias=array(hidden),
        middle=layers, output_weight=array(sizes[-1]), output_bias=0.25,
    )  # fmt: skip


@pytest.mark.parametrize("backend", ["numba", "torch"])
@laws
@given(
    seed=st.integers(0, 2**32 - 1), hidden=st.sampled_from([1, 4, 10, 17, 64]), movies=st.sampled_from([1, 65, 1000, 5000]),
    size=st.sampled_from([1e-20, 1.0, 1e15]), whole=st.booleans(),
)  # fmt: skip
def test_net_equals_brute_force(backend, seed, hidden, movies, size, whole):
    rng = np.random.default_rng(seed)
    x, q = (rng.standard_normal((s, 5)).astype(np.float32) for s in (20, movies))
    x, q = (np.rint(x), np.rint(q)) if whole else (x * np.float32(size), q * np.float32(size))
    net, seen = random_net(rng, hidden, 5), random_pairs(rng, 20, movies, 0.1)
    expected = brute_lists(brute_net_scores(x, q, net), n=30, seen=seen)
    assert_same(top_n(x, q, n=30, seen=seen, net=net, backend=backend, memory_gb=0.02), expected)


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_net_with_equal_sums_in_another_order(backend):
    rng = np.random.default_rng(5)
    x, q = (
        rng.standard_normal((10, 1)).astype(np.float32),
        rng.permuted(np.tile(rng.standard_normal(32), (3000, 1)), axis=1),
    )
    ones = np.ones((32, 1), np.float32)
    net = Net(
        user_weight=ones,
        movie_weight=np.eye(32, dtype=np.float32),
        hidden_bias=ones[:, 0],
        output_weight=ones[:, 0] / 3,
    )
    q = q.astype(np.float32)
    assert_same(top_n(x, q, n=50, net=net, backend=backend), brute_lists(brute_net_scores(x, q, net), n=50))


def test_deep_net_equals_brute_force():
    rng = np.random.default_rng(3)
    x, q = (rng.standard_normal((s, 6)).astype(np.float32) for s in (15, 400))
    net = random_net(rng, 12, 6, middle=(7, 5))
    assert_same(top_n(x, q, n=25, net=net, memory_gb=0.01), brute_lists(brute_net_scores(x, q, net), n=25))


@engines
def test_no_movies_and_no_users(backend, screen):
    empty = np.empty((0, 4), np.float32)
    idx, out = top_n(np.ones((3, 4), np.float32), empty, n=5, backend=backend, screen=screen)
    assert (idx == -1).all()
    assert (out == -np.inf).all()
    assert idx.shape == (3, 5)
    assert top_n(empty, np.ones((3, 4), np.float32), n=5, backend=backend, screen=screen)[0].shape == (0, 5)


@engines
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_is_refused_by_name(backend, screen, bad):
    good = np.ones((4, 3), np.float32)
    x, q, bias = good.copy(), good.copy(), np.zeros(4, np.float32)
    x[2, 1] = q[3, 0] = bias[1] = bad
    options = {"n": 2, "backend": backend, "screen": screen}
    with pytest.raises(ValueError, match="user vectors x: row 2"):
        top_n(x, good, **options)
    with pytest.raises(ValueError, match="movie vectors q: row 3"):
        top_n(good, q, **options)
    with pytest.raises(ValueError, match="movie_bias: row 1"):
        top_n(good, good, movie_bias=bias, **options)


@engines
def test_overflow_is_refused(backend, screen):
    big = np.full((2, 3), 1e20, np.float32)
    with pytest.raises(ValueError, match="above the largest float32"):
        top_n(big, big, n=1, backend=backend, screen=screen)


def test_wrong_shapes_are_refused():
    a, b = np.ones((2, 3), np.float32), np.ones((2, 4), np.float32)
    for x, q, options in (
        (a, b, {}),
        (a, a.astype(np.float64), {}),
        (a, a, {"candidates": np.ones(3, bool)}),
        (a, a, {"movie_bias": np.ones(3, np.float32)}),
        (a, a, {"seen": Pairs(np.array([0, 1]), np.zeros(1, np.int32))}),
        (a, a, {"seen": Pairs(np.array([0, 1, 2]), np.array([0, 2], np.int32))}),
        (a, a, {"users": range(0, 3)}),
        (a, a, {"n": 0}),
    ):
        with pytest.raises(
            ValueError, match=r"expected|holds NaN|must agree|above the largest|does not|falls|float32"
        ):
            top_n(x, q, **{"n": 1, **options})


def test_where_triton_does_not_run_torch_makes_the_lists(monkeypatch, caplog):
    pytest.importorskip("triton")
    from cfjobs.topn import fused

    monkeypatch.setattr(fused.kernels, "mark", None)  # as without a C compiler: an error at the first call
    fused.runs_on.cache_clear()
    assert not fused.runs_on("cpu")
    assert "lists are made by torch's operations" in caplog.text
