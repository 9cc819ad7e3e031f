"""Checkpoints: a training that was killed, wherever, ends as the one that was not."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cfjobs import models, storage, training
from cfjobs.config import Config
from cfjobs.features import Features
from cfjobs.models.ranker import History, RankingConfig, RankingModel
from cfjobs.night import story
from cfjobs.training.checkpoint import Checkpoints, State
from cfjobs.training.ranker import fit_ranking
from tests.night.test_story import QUICK, rows, run, start
from tests.training.test_ranker import ratings
from tests.training.test_rating import M, U, checkerboard, network

SMALL = {"epochs": 4, "batch_size": 256, "n_factors": 8, "patience": 2}


class Killed(Exception):
    pass


class Shelf:
    """Keeps checkpoints in memory, one a step, and dies after so many of them."""

    def __init__(self, *, dies_after: int | None = None) -> None:
        self.data: bytes | None = None
        self.n_left = dies_after

    def write(self, data: bytes) -> None:
        self.data = data
        if self.n_left is not None:
            self.n_left -= 1
            if self.n_left == 0:
                raise Killed

    def checkpoints(self) -> Checkpoints:
        always_due = -1
        return Checkpoints(read=lambda: self.data, write=self.write, seconds=always_due, clock=lambda: 0.0)


def killed_and_resumed(fit: Callable[[Checkpoints], None], *, at: list[int]) -> None:
    """Run a training that dies at each of these steps after it was started or resumed, then to its end."""
    shelf = Shelf()
    for step in at:
        shelf.n_left = step
        with pytest.raises(Killed):
            fit(shelf.checkpoints())
    shelf.n_left = None
    fit(shelf.checkpoints())


@pytest.mark.parametrize("model", models.names())
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_killed_rating_training_ends_with_the_same_bits(model: str, optimizer: str) -> None:
    config = Config(model=model, optimizer=optimizer, ensemble=2, **SMALL)  # type: ignore[arg-type]
    ended = []

    def fit(checkpoints: Checkpoints) -> None:
        found = network(config)
        record = training.fit_rating(
            found, checkerboard(), config=config, valid=checkerboard(n=500, seed=1), checkpoints=checkpoints
        )
        ended.append((found.state_dict(), [(e.epoch, e.train_loss, e.valid_loss) for e in record]))

    fit(Shelf().checkpoints())
    killed_and_resumed(fit, at=[3, 9, 1, 12, 11])
    (weights, record), (resumed, resumed_record) = ended
    assert record == resumed_record
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


def test_a_killed_ranking_training_ends_with_the_same_bits() -> None:
    rng = np.random.default_rng(0)
    user, movie = (torch.from_numpy(rng.integers(0, n, 2_000)) for n in (200, 60))
    rating = torch.from_numpy(rng.integers(1, 6, 2_000).astype(np.float32))
    history = History.of(ratings(user, movie, rating), n_users=200)
    config = RankingConfig(n_factors=8, n_steps=30, batch_users=32)
    ended: list[RankingModel] = []

    def fit(checkpoints: Checkpoints) -> None:
        ended.append(fit_ranking(history, n_movies=60, config=config, seed=5, checkpoints=checkpoints))

    fit(Shelf().checkpoints())
    killed_and_resumed(fit, at=[1, 7, 2, 12])
    first, resumed = (model.tensors() for model in ended)
    assert all(torch.equal(first[name], resumed[name]) for name in first)


@pytest.mark.parametrize(
    "what", ["ranking", "dot", "dot_bias", "dot_raters"]
)  # net learns nothing of them beside its layers
def test_side_features_are_part_of_a_checkpoint(what: str) -> None:
    values = np.arange(M) % 3
    features = Features(np.arange(M + 1), values, np.ones(M, dtype=np.float32), 3)
    learn = checkerboard(n=1_000)
    config = Config(model=what if what != "ranking" else "dot", **SMALL)  # type: ignore[arg-type]
    ended: list[dict[str, torch.Tensor]] = []

    def fit(checkpoints: Checkpoints) -> None:
        if what == "ranking":
            history = History.of(ratings(learn.user_idx, learn.movie_idx, learn.rating), n_users=U)
            small = RankingConfig(n_factors=8, n_steps=12)
            found = fit_ranking(history, n_movies=M, config=small, features=features, checkpoints=checkpoints)
            ended.append(found.tensors())
        else:
            described = network(config)
            described.describe(users=None, movies=features)
            training.fit_rating(described, learn, config=config, checkpoints=checkpoints)
            ended.append(described.state_dict())

    fit(Shelf().checkpoints())
    killed_and_resumed(fit, at=[3, 5])
    assert all(torch.equal(ended[0][name], ended[1][name]) for name in ended[0])


def test_a_checkpoint_of_another_training_or_a_damaged_one_is_left_aside() -> None:
    shelf = Shelf()
    config = Config(**SMALL)  # type: ignore[arg-type]
    training.fit_rating(network(config), checkerboard(), config=config, checkpoints=shelf.checkpoints())
    for data in (shelf.data, b"not a checkpoint", (shelf.data or b"")[:-1000]):
        shelf.data = data
        other = network(config)
        training.fit_rating(other, checkerboard(n=2_900), config=config, checkpoints=shelf.checkpoints())
        fresh = network(config)
        training.fit_rating(fresh, checkerboard(n=2_900), config=config)
        assert torch.equal(other.state_dict()["user.weight"], fresh.state_dict()["user.weight"])


def test_a_state_is_read_back_as_it_was_written() -> None:
    state = State({"a/x": torch.arange(3), "a/y": torch.empty(0)}, {"best": [float("inf"), 0], "note": "ü"})
    again = State.from_bytes(state.to_bytes())
    assert again.header == state.header
    assert torch.equal(again.part("a")["x"], state.tensors["a/x"])


def test_checkpoints_take_at_most_a_twentieth_of_the_time() -> None:
    now, written = 0.0, 0

    def write(_data: bytes) -> None:
        nonlocal now, written
        now, written = now + 3, written + 1

    checkpoints = Checkpoints(read=lambda: None, write=write, seconds=10, clock=lambda: now)
    while now < 1_000:
        now += 1
        checkpoints.offer(lambda: State({}, {}))
    assert 14 <= written <= 1_000 * 0.05 / 3 + 1


def test_the_work_folder_goes_with_what_a_killed_writer_left(tmp_path: Path) -> None:
    storage.write_bytes(str(tmp_path / "work" / "a.json"), b"{}")
    (tmp_path / "work" / "._half.part").write_bytes(b"half")
    storage.delete_under(str(tmp_path / "work"))
    assert not (tmp_path / "work").exists()


def test_a_night_that_is_killed_at_random_publishes_the_same_lists(data_set: Path, tmp_path: Path) -> None:
    """kill -9 of a real process, some times, each time a little later; then the command once more."""
    config = QUICK.model_copy(update={"steps": None, "epochs": 12, "batch_size": 256, "ranking_steps": 150})
    unkilled = run(data_set, str(tmp_path / "unkilled"), config=config)
    output = tmp_path / "killed"
    settings = {**config.model_dump(exclude_defaults=True), "checkpoint_seconds": 0.01}
    command = [sys.executable, "-m", "cfjobs", "-q", "nightly", "--run-date", "2026-03-01"]
    command += ["--ratings", str(data_set), "--output", str(output)]
    command += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    lottery = random.Random(int(os.environ.get("CFJOBS_TEST_SEED", time.time())))
    n_killed, resumed = 0, False
    while n_killed < 2:
        process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE)
        until = time.monotonic() + 60
        seen = lottery.randrange(1, 3)
        while process.poll() is None and time.monotonic() < until:
            checkpoints = list(output.glob("_work/*/checkpoint-*"))
            if len(checkpoints) >= seen:
                time.sleep(lottery.uniform(0, 0.4))
                break
            time.sleep(0.01)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        n_killed, resumed = n_killed + 1, resumed or bool(checkpoints)
    assert n_killed
    assert resumed
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert rows(str(output)).equals(rows(str(tmp_path / "unkilled")))
    metrics = rows(str(output), "metrics")
    assert metrics.equals(rows(str(tmp_path / "unkilled"), "metrics"))
    model = next((output / "models").iterdir())
    for name in ("network.safetensors", "ranking.safetensors"):
        assert (model / name).read_bytes() == (Path(unkilled.model_uri) / name).read_bytes()
    assert not (output / "_work").exists() or not any((output / "_work").iterdir())


@pytest.mark.long
def test_checkpoints_go_to_the_object_store_and_a_night_goes_on_from_them(
    data_set: Path, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = QUICK.model_copy(update={"checkpoint_seconds": 0.0001})
    run(data_set, str(tmp_path / "unkilled"))
    offered = Checkpoints.offer
    n_offers = 0

    def dies(self: Checkpoints, state: Callable[[], State]) -> None:
        nonlocal n_offers
        n_offers += 1
        offered(self, state)
        if n_offers == 15:
            raise Killed

    monkeypatch.setattr(Checkpoints, "offer", dies)
    with pytest.raises(Killed):
        run(data_set, f"{bucket}/night", config=config)
    night = start(data_set, f"{bucket}/night", config=config)
    assert storage.exists(storage.join(night.work, "checkpoint-train-rating.safetensors"))
    story.nightly(night)
    assert rows(f"{bucket}/night").equals(rows(str(tmp_path / "unkilled")))
