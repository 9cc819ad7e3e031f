"""Lists into a table of Postgres, all at once: a reader sees the table of before or the whole new one.

    a new table like the old one <- COPY (ADBC), then its indexes; committed
    wait until no snapshot is older than its rows
    lock the old one -> grants and owner -> drop it, rename the new one; committed

Whatever fails or is killed leaves the table as it was. Postgres finds a table by its name as of now and its
rows as of the reader's snapshot, so a reader with a snapshot of before the rows would find the new table
empty: the second line waits for those. Where they stay, and where views, foreign keys, triggers, policies or
a publication hang on the table, it keeps its place and its rows are replaced in one transaction, which takes
longer.
"""

import hashlib
import logging
import re
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote

import polars as pl
import pyarrow as pa

from cfjobs.errors import CfjobsError, InputError, StorageFault
from cfjobs.export import files
from cfjobs.export.files import quoted
from cfjobs.export.rows import Lists

log = logging.getLogger(__name__)

LOCK_SECONDS, TRIES = 2, 20
"""How long a swap waits at the lock, while new readers wait behind it, and how often it tries."""
ENDING_S = 2.0
"""How long an export waits for another one of the same table to end."""

_TYPES: dict[type[pl.DataType], str] = {
    pl.Date: "date",
    pl.Int16: "smallint",
    pl.Int64: "bigint",
    pl.Float32: "real",
    pl.String: "text",
}
_PASSING = ("08", "40", "53", "55", "57")
"""Classes of SQLSTATE that a later try may not meet."""
_LOCK_TIMEOUT = "55P03"


def is_postgres(uri: str) -> bool:
    return uri.startswith(("postgresql://", "postgres://"))


def shown(uri: str) -> str:
    """The URI as it may be shown: without user, password and parameters."""
    scheme, _, rest = uri.partition("://")
    host, slash, database = rest.rpartition("@")[2].partition("?")[0].partition("/")
    if not re.fullmatch(r"(\[[0-9a-fA-F:.]*\]|[\w.,%-]*)(:\d+)?", host):
        return f"{scheme}://***"
    return f"{scheme}://{host}{slash}{database}"


def load(
    uri: str, lists: Lists, blocks: Iterator[pl.DataFrame], *, table: str, in_place: bool = False
) -> None:
    """Make these lists the content of a table, `name` or `schema.name`; it is created where there is none.

    in_place: replace the rows, so that a transaction with a snapshot of before goes on seeing the former
    ones. InputError for a table with other columns, StorageFault when the database does not answer.
    """
    try:
        from adbc_driver_postgresql import dbapi
    except ImportError as error:
        raise InputError(
            f"{shown(uri)}: needs the driver of Postgres; pip install 'cfjobs[postgres]'"
        ) from error
    with (
        _explained(uri),
        closing(dbapi.connect(uri, autocommit=True)) as connection,
        connection.cursor() as cursor,
    ):
        database = _Database(cursor)
        schema, _, name = table.rpartition(".")
        schema = schema or database.one("select current_schema()::text")[0]
        _load(database, schema, name, lists, blocks, what=shown(uri), in_place=in_place)


def _load(
    database: "_Database",
    schema: str,
    name: str,
    lists: Lists,
    blocks: Iterator[pl.DataFrame],
    *,
    what: str,
    in_place: bool,
) -> None:
    target = f"{quoted(schema)}.{quoted(name)}"
    _lock(database, target, what=what)
    old = _table(database, schema, name)
    if old is None:
        with database.transaction():
            columns = [f"{quoted(column)} {kind}" for column, kind in _columns(lists).items()]
            database.do(f"create table {target} ({', '.join(columns)})")
            database.copy(schema, name, lists, blocks)
            database.do(f"alter table {target} add primary key (user_id, rank)", f"analyze {target}")
        return
    _check(old, lists, f"{what}: table {target}")
    if in_place or old.hung_on:
        with database.transaction():
            database.do(f"delete from {target}")
            database.copy(schema, name, lists, blocks)
        database.do(f"vacuum (analyze) {target}")
        return
    new = f"cfjobs_{hashlib.sha256(target.encode()).hexdigest()[:16]}"
    probe = f"{quoted(schema)}.{new}_probe"
    leftovers = f"drop table if exists {quoted(schema)}.{new}, {probe}"
    database.do(leftovers, f"create table {probe} ()")  # leftovers: of an export that was killed
    try:
        loaded = _successor(database, old, new, lists, blocks)
        if not (_seen_by_all(database, probe, since=loaded) and _swapped(database, old, new)):
            log.info("%s: readers stay at %s, its rows are replaced", what, target)
            names = ", ".join(quoted(column) for column in lists.schema)
            with database.transaction():
                database.do(f"delete from {target}")
                database.do(f"insert into {target} ({names}) select {names} from {quoted(schema)}.{new}")
    finally:
        with suppress(Exception):  # what is left goes with the next export
            database.do(leftovers)


class _Database:
    """Statements, each on its own outside of `transaction`."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    def do(self, *statements: str) -> None:
        for statement in statements:
            self._cursor.execute(statement)

    def all(self, query: str) -> list[tuple[Any, ...]]:
        self._cursor.execute(query)
        found: list[tuple[Any, ...]] = self._cursor.fetchall()
        return found

    def one(self, query: str) -> tuple[Any, ...]:
        return self.all(query)[0]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Statements that count together or not at all."""
        self.do("begin")
        try:
            yield
        except BaseException:
            with suppress(Exception):  # a connection that broke has nothing to take back
                self.do("rollback")
            raise
        self.do("commit")

    def copy(self, schema: str, name: str, lists: Lists, blocks: Iterator[pl.DataFrame]) -> None:
        """The rows into a table, as one binary COPY."""
        failed: list[BaseException] = []

        def batches() -> Iterator[pa.RecordBatch]:
            try:
                yield from files.arrow_batches(lists, blocks)
            except BaseException as error:  # the driver tells it as its own
                failed.append(error)
                raise

        reader = pa.RecordBatchReader.from_batches(files.arrow_schema(lists.schema), batches())
        try:
            self._cursor.adbc_ingest(name, reader, mode="append", db_schema_name=schema)
        except Exception as error:
            raise (failed[0] if failed else error) from error


@dataclass(frozen=True)
class _Table:
    """A table as it stands. columns: name -> type. indexes: (name, definition of a constraint or None,
    `create index` up to its name's end, the rest). hung_on: whether more hangs on it than indexes and
    grants."""

    oid: int
    schema: str
    name: str
    kind: str
    columns: dict[str, str]
    indexes: tuple[tuple[str, str | None, str, str], ...]
    hung_on: bool

    @property
    def target(self) -> str:
        return f"{quoted(self.schema)}.{quoted(self.name)}"


def _lock(database: _Database, target: str, *, what: str) -> None:
    """One export a table. The session of one that has just ended may hold its lock a moment longer."""
    until = time.monotonic() + ENDING_S
    while not database.one(f"select pg_try_advisory_lock(hashtextextended({_text(target)}, 0))")[0]:
        if time.monotonic() > until:
            raise StorageFault(f"{what}: another export is loading {target}; retry when it has ended")
        time.sleep(0.2)


def _table(database: _Database, schema: str, name: str) -> _Table | None:
    found = database.all(
        "select c.oid::bigint, c.relkind::text, c.relkind <> 'r' or c.relispartition or c.relrowsecurity"
        " or c.relreplident <> 'd' or c.relpersistence <> 'p'"
        " from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        f" where n.nspname = {_text(schema)} and c.relname = {_text(name)}"
    )
    if not found:
        return None
    oid, kind, special = found[0]
    columns = database.all(
        "select attname::text, format_type(atttypid, atttypmod) from pg_attribute"
        f" where attrelid = {oid} and attnum > 0 and not attisdropped"
    )
    (hung_on,) = database.one(
        "select exists (select 1 from pg_depend d left join pg_class c"
        " on d.classid = 'pg_class'::regclass and c.oid = d.objid left join pg_constraint k"
        " on d.classid = 'pg_constraint'::regclass and k.oid = d.objid"
        f" where d.refclassid = 'pg_class'::regclass and d.refobjid = {oid}"
        " and not coalesce(c.relkind in ('i', 't'), false)"
        " and not coalesce(k.conrelid = d.refobjid and k.contype in ('p', 'u', 'c', 'x', 'n'), false)"
        " and d.classid not in ('pg_attrdef'::regclass, 'pg_type'::regclass, 'pg_statistic_ext'::regclass))"
    )
    return _Table(oid, schema, name, kind, dict(columns), _indexes(database, oid), special or hung_on)


def _indexes(database: _Database, oid: int) -> tuple[tuple[str, str | None, str, str], ...]:
    """The indexes of a table, those of constraints first."""
    found = database.all(
        "select i.relname::text, pg_get_constraintdef(k.oid),"
        " format('CREATE %sINDEX ', case when x.indisunique then 'UNIQUE ' else '' end),"
        " substr(pg_get_indexdef(i.oid), length(format('CREATE %sINDEX %I ON %I.%I',"
        " case when x.indisunique then 'UNIQUE ' else '' end, i.relname, n.nspname, t.relname)) + 1)"
        " from pg_index x join pg_class i on i.oid = x.indexrelid join pg_class t on t.oid = x.indrelid"
        " join pg_namespace n on n.oid = t.relnamespace"
        " left join pg_constraint k on k.conindid = i.oid and k.conrelid = t.oid and k.contype in ('p', 'u', 'x')"
        f" where x.indrelid = {oid} order by k.oid is null, i.relname"
    )
    return tuple((name, constraint, begin, rest) for name, constraint, begin, rest in found)


def _columns(lists: Lists) -> dict[str, str]:
    return {name: _TYPES[type(dtype)] for name, dtype in lists.schema.items()}


def _check(old: _Table, lists: Lists, what: str) -> None:
    """InputError when the table is not one that such lists were loaded into."""
    if old.kind not in {"r", "p"}:
        raise InputError(f"{what}: is no table; name another with --table")
    for name, kind in _columns(lists).items():
        if old.columns.get(name) != kind:
            raise InputError(
                f"{what}: column {name} is {old.columns.get(name, 'absent')}, expected {kind}; "
                "name another table with --table, or drop this one"
            )


def _successor(
    database: _Database, old: _Table, new: str, lists: Lists, blocks: Iterator[pl.DataFrame]
) -> str:
    """A new table with the columns and indexes of the old one, and the rows.
    Returns the transaction that wrote them."""
    target = f"{quoted(old.schema)}.{new}"
    with database.transaction():
        database.do(f"create table {target} (like {old.target} including all excluding indexes)")
        database.copy(old.schema, new, lists, blocks)
        for number, (_, constraint, begin, rest) in enumerate(old.indexes):
            if constraint:
                database.do(f"alter table {target} add constraint {new}_{number} {constraint}")
            else:
                database.do(f"{begin}{new}_{number} ON {target}{rest}")
        database.do(f"analyze {target}")
        loaded: str = database.one("select pg_current_xact_id()::xid::text")[0]
    return loaded


def _seen_by_all(database: _Database, probe: str, *, since: str) -> bool:
    """Whether no transaction has a snapshot older than one that ended; waits a while for those that have.

    Vacuum brings an empty table's age to the oldest snapshot that somebody has, which others' sessions tell
    only to whom they may.
    """
    for tried in range(TRIES):
        if tried:
            time.sleep(1)
        database.do(f"vacuum (freeze) {probe}")
        (seen,) = database.one(
            f"select age(relfrozenxid) < age('{since}'::xid) from pg_class where oid = {_text(probe)}::regclass"
        )
        if seen:
            return True
    return False


def _swapped(database: _Database, old: _Table, new: str) -> bool:
    """Put the new table in the old one's place, with its grants, owner, options and comment.
    False where the old one's readers do not let go of it."""
    target = f"{quoted(old.schema)}.{new}"
    for tried in range(TRIES):
        if tried:
            time.sleep(1)
        try:
            with database.transaction():
                database.do(f"set local lock_timeout = '{LOCK_SECONDS}s'")
                database.do(f"lock table {old.target} in access exclusive mode")
                if _table(database, old.schema, old.name) != old:
                    raise StorageFault(
                        f"table {old.target}: was changed while its successor was loaded; it is as it was, retry"
                    )
                database.do(*_rights(database, old, new), f"drop table {old.target}")
                database.do(f"alter table {target} rename to {quoted(old.name)}")
                for number, (name, _, _, _) in enumerate(old.indexes):
                    built = f"{quoted(old.schema)}.{new}_{number}"
                    database.do(f"alter index {built} rename to {quoted(name)}")
            return True
        except Exception as error:
            if getattr(error, "sqlstate", None) != _LOCK_TIMEOUT:
                raise
    return False


def _rights(database: _Database, old: _Table, new: str) -> list[str]:
    """Statements that give the new table the owner, grants, options and comment of the old one."""
    target = f"{quoted(old.schema)}.{new}"
    of_new = f"(select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = {_text(old.schema)} and c.relname = {_text(new)})"
    to = "case a.grantee when 0 then 'PUBLIC' else quote_ident(pg_get_userbyid(a.grantee)) end"
    owner, options, comment = database.one(
        "select quote_ident(pg_get_userbyid(relowner)), array_to_string(reloptions, ', '),"
        f" quote_literal(obj_description(oid, 'pg_class')) from pg_class where oid = {old.oid}"
    )
    revoked = database.all(
        f"select distinct {to} from pg_class c, aclexplode(c.relacl) a"
        f" where c.oid = {of_new} and a.grantee <> c.relowner"
    )
    granted = database.all(
        f"select a.privilege_type::text, '', {to}, a.is_grantable from pg_class c, aclexplode(c.relacl) a"
        f" where c.oid = {old.oid} and a.grantee <> c.relowner"
        f" union all select a.privilege_type::text, format('(%I)', b.attname), {to}, a.is_grantable"
        f" from pg_attribute b, aclexplode(b.attacl) a where b.attrelid = {old.oid} and not b.attisdropped"
    )
    statements = [f"revoke all on {target} from {grantee}" for (grantee,) in revoked]
    for privilege, column, grantee, grantable in granted:
        option = " with grant option" if grantable else ""
        statements.append(f"grant {privilege} {column} on {target} to {grantee}{option}")
    if options:
        statements.append(f"alter table {target} set ({options})")
    if comment:
        statements.append(f"comment on table {target} is {comment}")
    return [*statements, f"alter table {target} owner to {owner}"]


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turn what the driver raises into InputError (act) or StorageFault (retry), without the credentials."""
    try:
        yield
    except CfjobsError:
        raise
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "adbc_driver_manager":
            raise
        state = getattr(error, "sqlstate", None)
        lines = [line for line in str(error).splitlines() if line.strip()] or ["no reason given"]
        message = re.sub(
            r"^[A-Z_]+: (\[libpq\] )?(.*'?: (ERROR|FATAL): +)?", "", _without_secrets(lines[0], uri)
        )
        passing = state.startswith(_PASSING) if state else not re.search("authentication|invalid", message)
        kind = StorageFault if passing else InputError
        raise kind(f"{shown(uri)}: {message[:300]}; what was there is as it was") from None


def _without_secrets(text: str, uri: str) -> str:
    """A message without the URI and the password in it."""
    rest = uri.partition("://")[2]
    user = rest.rpartition("@")[0] or rest
    password = user.partition(":")[2]
    in_query = parse_qs(rest.partition("?")[2]).get("password", [])
    secrets = {uri, rest, user, password, unquote(password), *in_query} - {""}
    for secret in sorted(map(re.escape, secrets), key=len, reverse=True):
        text = re.sub(secret if len(secret) > 5 else rf"(?<!\w){secret}(?!\w)", "***", text)
    return text


def _text(value: str) -> str:
    """A string in a query."""
    return "'" + value.replace("'", "''") + "'"
