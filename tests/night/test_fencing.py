"""Two writers of one night and a reader: whatever their order, no reader sees two nights in one,
and one night stands in the end.

A small explicit model of the protocol is run through every interleaving of its steps. The same schedules,
with a bounded number of changes from one writer to the other, are then played on a real store, where each
writer is stopped before every renewal and every commit, and the other takes its lease away as it likes. The
reader has no code of ours.
"""

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from itertools import combinations
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from cfjobs import storage, tables
from cfjobs.night.publish import TRIES, make_visible
from cfjobs.storage import lease
from cfjobs.storage.lease import COMMIT, LeaseLost, leased
from cfjobs.tables.delta import Overtaken, Seen
from cfjobs.tables.parts import Ready, write_part

BASE, NIGHT = date(2026, 3, 1), date(2026, 3, 2)
NAMES = ("top_n", "metrics", "runs")


# The model ------------------------------------------------------------------------------------------


@dataclass
class Store:
    """Who holds the lease, and who made each version of each table; None is a fence."""

    holder: str | None = None
    log: dict[str, list[str | None]] = field(default_factory=lambda: {name: ["base"] for name in NAMES})
    told: list[dict[str, int]] = field(default_factory=lambda: [dict.fromkeys(NAMES, 0)])

    def shown(self) -> list[str | None]:
        """Who made the rows that a reader gets at the versions that the newest row of `runs` names."""
        return [self.log[name][version] for name, version in self.told[-1].items()]

    def newest(self) -> list[str | None]:
        """Who made the newest rows of each table."""
        return [next(w for w in reversed(self.log[name]) if w is not None) for name in NAMES]


def writer(name: str, store: Store) -> Iterator[str]:
    """A step between two yields is atomic. Ends with "done", "lost" or "overtaken"."""
    yield "acquire"
    taken_over, store.holder = store.holder is not None, name
    for _ in range(TRIES):
        seen = {table: len(store.log[table]) for table in NAMES}
        todo = (["fence"] if taken_over else []) + list(NAMES)
        versions: dict[str, int] = {}
        overtaken = False
        for what in todo:
            table = "runs" if what == "fence" else what
            if store.log[table][-1] == name:  # of an attempt before: it stands
                versions[table] = len(store.log[table]) - 1
                continue
            yield "renew"
            if store.holder != name:
                yield "give back"
                return
            yield "commit"
            if len(store.log[table]) != seen[table]:
                overtaken = True
                break
            store.log[table].append(None if what == "fence" else name)
            seen[table] += 1
            versions[table] = seen[table] - 1
            if what == "runs":
                store.told.append(versions)
        if not overtaken:
            break
    yield "give back"
    if store.holder == name:
        store.holder = None


def play(schedule: Sequence[str], store: Store) -> Iterator[None]:
    """Let the writers step in this order, and each to its end after it."""
    writers = {name: writer(name, store) for name in "AB"}
    for name in schedule:
        next(writers[name], None)
        yield
    for steps in writers.values():
        for _ in steps:
            yield


def test_in_the_model_no_interleaving_is_torn() -> None:
    n_steps, n = 9, 0
    for of_a in combinations(range(2 * n_steps), n_steps):
        if of_a[0]:
            break  # the same with the names exchanged
        store = Store()
        schedule = ["B"] * (2 * n_steps)
        for step in of_a:
            schedule[step] = "A"
        for _ in play(schedule, store):
            assert len(set(store.shown())) == 1, schedule
        assert len(set(store.newest())) == 1, (schedule, store)
        assert store.newest()[0] == store.shown()[0] != "base", (schedule, store)
        n += 1
    print(f"\nmodel: {n:,} interleavings of two writers, 0 torn")


# The same on a real store ---------------------------------------------------------------------------


class Turns:
    """Lets threads go on one step at a time, in the order of a schedule."""

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._allowed: str | None = None
        self._waiting: set[str] = set()
        self._ended: set[str] = set()

    def gate(self) -> None:
        """Wait for the turn; called by a writer before a step."""
        name = threading.current_thread().name
        with self._turn:
            self._waiting.add(name)
            self._turn.notify_all()
            assert self._turn.wait_for(lambda: self._allowed == name, timeout=60)
            self._waiting.discard(name)
            self._allowed = None

    def end(self) -> None:
        with self._turn:
            self._ended.add(threading.current_thread().name)
            self._turn.notify_all()

    def step(self, name: str) -> bool:
        """Let a writer do one step, until it waits again or has ended; False when it had ended."""
        with self._turn:
            assert self._turn.wait_for(lambda: name in self._waiting | self._ended, timeout=60)
            if name in self._ended:
                return False
            self._allowed = name
            self._turn.notify_all()
            assert self._turn.wait_for(
                lambda: self._allowed is None and name in self._waiting | self._ended, timeout=60
            )
            return True


def ready(output: str, name: str, night: date) -> list[Ready]:
    """Rows of two tables that say who wrote them."""
    whose = {"base": 0, "A": 1, "B": 2}[name]
    lists = tables.TOP_N.schema(user_type=pa.int64(), movie_type=pa.int64())
    metrics = tables.METRICS.schema(user_type=pa.string(), movie_type=pa.string())
    rows = {
        tables.TOP_N: (lists, {"user_id": 1, "rank": 1, "movie_id": whose, "score": 1.0, "predicted_rating": 1.0, "source": name}),
        tables.METRICS: (metrics, {"metric": name, "band": "all", "value": 1.0, "baseline": 1.0, "users": 1, "min_ratings": 1, "max_ratings": 1}),
    }  # fmt: skip
    found = []
    for table, (schema, row) in rows.items():
        in_file = schema.remove(schema.get_field_index(tables.RUN_DATE))
        part = write_part(
            output, table, pa.Table.from_pylist([row], schema=in_file), run_date=night, name=name
        )
        found.append(Ready(table, schema, (part,)))
    return found


def row_of_runs(name: str, night: date) -> dict[str, Any]:
    texts = ("model_uri", "counts", "metrics", "config", "inputs", "versions", "losses", "gate", "report_uri")
    return dict.fromkeys(texts, "{}") | {"run_date": night, "run_id": name, "started_at": datetime.now(UTC)}


def put(output: str, name: str, night: date) -> None:
    with leased(output, COMMIT) as lease:
        make_visible(
            output, ready(output, name, night), row_of_runs(name, night),
            run_date=night, run_id=name, seconds={}, started=0.0, lease=lease,
        )  # fmt: skip


def look(output: str, *, named: bool) -> set[str]:
    """Whose rows a reader gets: at the versions that the newest row of `runs` names,
    or at the newest of each table."""
    options = storage.options(output)
    nights = (
        DeltaTable(f"{output}/runs", storage_options=options)
        .to_pyarrow_table()
        .sort_by("run_date")
        .to_pylist()
    )
    row = nights[-1]
    versions = json.loads(row["table_versions"])
    found = {row["run_id"]}
    for name, column in (("top_n", "source"), ("metrics", "metric")):
        table = DeltaTable(
            f"{output}/{name}", version=versions[name] if named else None, storage_options=options
        )
        rows = table.to_pyarrow_table().to_pylist()
        found |= {other[column] for other in rows if other["run_date"] == max(r["run_date"] for r in rows)}
    return found


class Game:
    """Two writers of one night, on an output with the night before."""

    def __init__(self, output: str) -> None:
        self.output, self.turns = output, Turns()
        self.ends: dict[str, BaseException | None] = {}
        self.threads = [threading.Thread(target=self._write, name=name, daemon=True) for name in "AB"]

    def begin(self) -> None:
        for thread in self.threads:
            thread.start()

    def _write(self) -> None:
        name = threading.current_thread().name
        try:
            put(self.output, name, NIGHT)
            self.ends[name] = None
        except BaseException as error:
            self.ends[name] = error
        finally:
            self.turns.end()


@pytest.fixture
def gates(monkeypatch: pytest.MonkeyPatch) -> Callable[[Game | None], None]:
    """Writers wait for their turn before they take the lease, renew it, commit and give it back; nobody
    renews beside that, and everybody takes a lease that he finds."""
    playing: list[Game | None] = [None]
    commit, give_back = Seen.commit, {kind: kind.give_back for kind in (lease._StoredLease, lease._Lock)}
    acquire, lock = lease._acquire, lease._try_lock

    def gate() -> bool:
        if playing[0]:
            playing[0].turns.gate()
        return False

    def stops_to_commit(seen: Seen, name: str, action: Callable[..., object], **metadata: str) -> int:
        gate()
        return commit(seen, name, lambda properties: gate() or action(properties), **metadata)

    def stops_to_give_back(lease: Any) -> None:
        gate()
        give_back[type(lease)](lease)

    def stops_to_acquire(uri: str, **more: Any) -> Any:
        gate()
        return acquire(uri, **more)

    def stops_to_lock(path: Path) -> int | None:
        gate()
        path.unlink(missing_ok=True)  # as `rm` or a lock server that restarts would
        return lock(path)

    monkeypatch.setattr(Seen, "commit", stops_to_commit)
    for kind in give_back:
        monkeypatch.setattr(kind, "give_back", stops_to_give_back)
    monkeypatch.setattr(lease, "_acquire", stops_to_acquire)
    monkeypatch.setattr(lease, "_try_lock", stops_to_lock)
    monkeypatch.setattr(lease, "_renew_until", lambda *_: None)
    monkeypatch.setattr(lease, "_has_died", lambda _owner: True)
    return lambda game: playing.__setitem__(0, game)


@pytest.mark.parametrize("where", ["disk", "store"])
def test_on_a_real_store_no_schedule_is_torn(
    where: str, tmp_path: Path, request: pytest.FixtureRequest, gates: Callable[[Game | None], None]
) -> None:
    bucket = request.getfixturevalue("bucket") if where == "store" else ""
    n_steps = 8
    switches = [(a, b) for a in range(1, n_steps + 1) for b in range(1, n_steps + 3)]
    if not os.environ.get("CFJOBS_ALL_SCHEDULES"):  # all take minutes
        switches = [(a, b) for a, b in switches if (a + 3 * b) % (5 if where == "disk" else 13) == 0]
    reads = torn = 0
    ends: dict[str, int] = {}
    for a, b in switches:
        output = f"{bucket}/{uuid4().hex}" if where == "store" else str(tmp_path / "out")
        gates(None)
        put(output, "base", BASE)
        game = Game(output)
        gates(game)
        game.begin()
        rest = "AB" * (2 * n_steps) if (a + b) % 4 < 2 else "A" * (2 * n_steps)
        for step, name in enumerate(["A"] * a + ["B"] * b + list(rest + "B" * (3 * n_steps))):
            if game.turns.step(name) and (step >= a - 1):
                reads += 1
                torn += len(look(output, named=True)) != 1
        for thread in game.threads:
            thread.join(60)
        kinds = [type(end).__name__ for end in game.ends.values()]
        assert all(end is None or isinstance(end, (LeaseLost, Overtaken)) for end in game.ends.values()), (
            a,
            b,
            game.ends,
        )
        assert None in game.ends.values(), (a, b, game.ends)
        stands = look(output, named=False)
        assert len(stands) == 1, (a, b, stands, game.ends)
        assert stands == look(output, named=True) != {"base"}
        ends[" and ".join(sorted(kinds))] = ends.get(" and ".join(sorted(kinds)), 0) + 1
        if where == "disk":
            shutil.rmtree(output)
    print(f"\n{where}: {len(switches)} interleavings, {reads} reads, {torn} torn; ends: {ends}")
    assert torn == 0


def test_a_lease_that_was_taken_over_is_neither_renewed_nor_given_back(bucket: str) -> None:
    uri = f"{bucket}/_work/claim-x.json"
    other = {"host": "elsewhere", "pid": 1, "token": "t"}
    with leased(bucket, "x") as ours:
        storage.write_bytes(uri, json.dumps(other).encode())
        with pytest.raises(LeaseLost, match="another took its place"):
            ours.renew()
    assert json.loads(storage.read_bytes(uri)) == other


def test_a_clone_of_a_writer_cannot_renew_its_lease(bucket: str) -> None:
    with leased(bucket, "x") as ours:
        assert isinstance(ours, lease._StoredLease)
        clone = lease._StoredLease(ours.uri, ours._tag, taken_over=False)
        ours.renew()
        with pytest.raises(LeaseLost):
            clone.renew()
        ours.renew()


@pytest.mark.parametrize("changed", ["boot", "pid_namespace", "host", None])
def test_only_a_process_that_this_one_could_see_is_taken_for_dead(changed: str | None) -> None:
    owner = json.loads(lease._owner())
    assert not lease._has_died(owner)
    gone = owner | {"pid": 2**22 + 1}
    assert lease._has_died(gone | ({changed: "another"} if changed else {})) == (changed is None)
    assert lease._has_died(owner | {"process_started": 1}), "another process with the same number"


def test_a_lock_whose_file_was_removed_commits_nothing(tmp_path: Path) -> None:
    with leased(str(tmp_path), "x") as ours:
        (tmp_path / "_work" / "claim-x.json").unlink()
        with pytest.raises(LeaseLost):
            ours.renew()
