"""Lists in Postgres: a reader sees one night or the other, and what belongs to the table stays."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from adbc_driver_postgresql import dbapi

from bench import postgres as own_postgres
from cfjobs.errors import CfjobsError, InputError, StorageFault
from cfjobs.export import export, postgres
from tests.export.test_files import BEFORE, NIGHT, broken, published


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    if not own_postgres.command("initdb"):
        pytest.skip("there is no Postgres here: Debian's postgresql has it")
    with own_postgres.running() as uri:
        yield uri


def ask(uri: str, query: str) -> list[tuple[Any, ...]]:
    with dbapi.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        found: list[tuple[Any, ...]] = cursor.fetchall() if cursor.description else []
        return found


def do(uri: str, *statements: str) -> None:
    with dbapi.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def test_a_reader_with_an_old_snapshot_sees_its_night_to_the_end(
    two_nights: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "TRIES", 2)
    out, query = str(two_nights / "out"), SEEN.format("old_snapshot")
    export(out, database, run_date=BEFORE, table="old_snapshot")
    (before,) = ask(database, query)
    with dbapi.connect(database, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute("begin isolation level repeatable read")
        cursor.execute("select 1 from pg_class limit 1")
        cursor.fetchall()
        export(out, database, table="old_snapshot")
        cursor.execute(query)
        assert cursor.fetchall() == [before]
        export(out, database, run_date=BEFORE, table="old_snapshot")  # and one at the table itself
        cursor.execute("commit")
    export(out, database, table="old_snapshot")
    assert ask(database, query)[0][0] == NIGHT


SEEN = "select min(run_date), max(run_date), count(*), count(distinct user_id) from {}"


@pytest.mark.parametrize("in_place", [False, True])
def test_a_reader_sees_one_night_or_the_other(
    two_nights: Path, database: str, in_place: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, table = str(two_nights / "out"), f"polled_{int(in_place)}"
    whole = {
        (day, day, rows.height, rows["user_id"].n_unique())
        for day in (BEFORE, NIGHT)
        for rows in [published(two_nights, day)]
    }
    export(out, database, run_date=BEFORE, table=table, in_place=in_place)
    seen, over, failed = set[tuple[Any, ...]](), threading.Event(), list[Exception]()

    def poll() -> None:
        try:
            with dbapi.connect(database, autocommit=True) as connection, connection.cursor() as cursor:
                while not over.is_set():
                    cursor.execute(SEEN.format(table))
                    seen.update(cursor.fetchall())
        except Exception as error:
            failed.append(error)

    reader = threading.Thread(target=poll)
    reader.start()
    try:
        for day in (NIGHT, BEFORE) * 3:
            export(out, database, run_date=day, table=table, in_place=in_place)
        broken(monkeypatch)
        with pytest.raises(StorageFault, match="went away"):
            export(out, database, run_date=NIGHT, table=table, in_place=in_place)
    finally:
        over.set()
        reader.join()
    assert not failed
    assert seen == whole
    assert ask(database, SEEN.format(table))[0][0] == BEFORE
    assert not ask(database, "select relname::text from pg_class where relname like 'cfjobs%'")


def test_what_belongs_to_the_table_stays(two_nights: Path, database: str) -> None:
    out = str(two_nights / "out")
    do(database, "create schema app", "create role reader", "create role writer")
    do(database, "alter default privileges in schema app grant delete on tables to public")
    export(out, database, run_date=BEFORE, table="app.lists")
    do(
        database,
        "revoke delete on app.lists from public",
        "grant select on app.lists to reader with grant option",
        "grant update (title) on app.lists to writer",
        'create index "by movie" on app.lists using btree (movie_id) where rank <= 10',
        "create unique index once on app.lists (user_id, movie_id)",
        "alter table app.lists add column note text default 'new'",
        "alter table app.lists add constraint ranked check (rank > 0)",
        "alter table app.lists set (fillfactor = 90)",
        "comment on table app.lists is 'what the app''s users see'",
        "alter table app.lists owner to writer",
    )
    about = (
        "select indexdef from pg_indexes where tablename = 'lists' order by 1",
        "select relacl::text, reloptions::text, obj_description(oid), relowner::bigint from pg_class where relname = 'lists'",
        "select attname::text, attacl::text from pg_attribute where attrelid = 'app.lists'::regclass and attnum > 0 order by attnum",
        "select conname::text, pg_get_constraintdef(oid) from pg_constraint where conrelid = 'app.lists'::regclass order by 1",
    )
    before = [ask(database, query) for query in about]
    oid = ask(database, "select 'app.lists'::regclass::oid::bigint")
    export(out, database, table="app.lists")
    assert [ask(database, query) for query in about] == before
    assert ask(database, "select 'app.lists'::regclass::oid::bigint") != oid
    assert ask(database, "select distinct run_date, note from app.lists") == [(NIGHT, "new")]


@pytest.mark.parametrize(
    "hung",
    [
        "create view shown as select * from hung",
        "create table likes (u bigint, r smallint, foreign key (u, r) references hung deferrable initially deferred)",
        "create policy mine on hung using (true)",
        "create publication told for table hung",
    ],
)
def test_a_table_that_others_hang_on_keeps_its_place(two_nights: Path, database: str, hung: str) -> None:
    out = str(two_nights / "out")
    do(database, "drop table if exists hung cascade")
    export(out, database, run_date=BEFORE, table="hung")
    do(database, hung)
    oid = ask(database, "select 'hung'::regclass::oid::bigint")
    export(out, database, table="hung")
    assert ask(database, "select 'hung'::regclass::oid::bigint") == oid
    assert ask(database, "select distinct run_date from hung") == [(NIGHT,)]


def test_what_will_not_do_is_one_line_without_the_password(two_nights: Path, database: str) -> None:
    out, secret = str(two_nights / "out"), database.partition("night:")[2].partition("@")[0]

    def refused(uri: str, **more: Any) -> CfjobsError:
        with pytest.raises(CfjobsError) as error:
            export(out, uri, **more)
        said = str(error.value)
        assert "\n" not in said
        assert secret not in said
        assert unquote(secret) not in said
        assert error.value.__cause__ is None or secret not in str(error.value.__cause__)
        return error.value

    do(database, "create table mine (user_id bigint)", "create view seen as select 1 as user_id")
    told = refused(database, table="mine")
    assert isinstance(told, InputError)
    assert "column run_date is absent, expected date" in str(told)
    assert "is no table" in str(refused(database, table="seen"))
    assert "nowhere" in str(refused(database, table="nowhere.lists"))
    assert "authentication failed" in str(refused(database.replace("night:", "other:")))
    refused(database.replace("127.0.0.1:", "127.0.0.1:x"))
    refused(f"postgresql://night:{secret}")
    assert isinstance(refused(database.replace(database.rpartition(":")[2], "1/postgres")), StorageFault)
    assert export(out, database, table="told").to == database.replace(f"night:{secret}@", "")
    with dbapi.connect(database) as connection, connection.cursor() as cursor:
        cursor.execute("""select pg_advisory_lock(hashtextextended('"public"."told"', 0))""")
        cursor.fetchall()
        assert "another export" in str(refused(database, table="told"))


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me:se/c@ret@db:5432/app?password=x", "postgresql://db:5432/app"),
        ("postgresql://db/app", "postgresql://db/app"),
        ("postgresql://me:secret", "postgresql://***"),
        ("postgres://me:secret@[::1]:5432/app", "postgres://[::1]:5432/app"),
    ],
)
def test_a_uri_is_shown_without_its_credentials(uri: str, shown: str) -> None:
    assert postgres.shown(uri) == shown
