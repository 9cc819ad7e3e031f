"""Import of GroupLens data: every layout, anything nested, hostile zips refused, bad lines named."""

import io
import os
import stat
import zipfile
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from cfjobs import storage
from cfjobs.datasets import movielens
from cfjobs.errors import InputError, StorageFault

RATINGS = [(1, 31, 2.5, 1260759144), (1, 2000, 4.0, 1260759205), (7, 31, 5.0, 978300760), (3, 9, 0.5, 0)]
MOVIES = [
    (9, "Amélie, or the Comma (2001)", "Comedy|Romance"),
    (31, 'The "Quoted" (1995)', "Drama"),
    (2000, "Heat: Again (1995)", "unknown"),
]
_SEPARATOR = {"csv": ",", "dat": "::", "data": "\t"}
LAYOUTS = list(_SEPARATOR)


def ratings_text(layout: str, rows: list[tuple[int, int, float, int]] = RATINGS, *, end: str = "\n") -> bytes:
    head = ["userId,movieId,rating,timestamp"] if layout == "csv" else []
    join = _SEPARATOR[layout].join
    lines = [*head, *(join((str(u), str(m), f"{stars:g}", str(seconds))) for u, m, stars, seconds in rows)]
    return "".join(line + end for line in lines).encode()


def movies_text(layout: str) -> bytes:
    if layout == "csv":
        quoted = [(n, '"' + title.replace('"', '""') + '"', genres) for n, title, genres in MOVIES]
        lines = ["movieId,title,genres", *(f"{n},{title},{genres}" for n, title, genres in quoted)]
        return "".join(line + "\r\n" for line in lines).encode()
    if layout == "dat":
        return "".join(f"{n}::{title}::{genres}\n" for n, title, genres in MOVIES).encode("latin-1")
    flags = {"Comedy|Romance": {5, 14}, "Drama": {8}, "unknown": {0}}
    lines = []
    for n, title, genres in MOVIES:
        bits = ("01"[number in flags[genres]] for number in range(19))
        lines.append("|".join([str(n), title, "01-Jan-1995", "", "http://us.imdb.com/", *bits]))
    return "".join(line + "\n" for line in lines).encode("latin-1")


def names(layout: str) -> tuple[str, str]:
    return ("u.data", "u.item") if layout == "data" else (f"ratings.{layout}", f"movies.{layout}")


def files(layout: str, under: str = "") -> dict[str, bytes]:
    ratings, movies = names(layout)
    content = {ratings: ratings_text(layout), movies: movies_text(layout), "README.txt": b"read me"}
    return {under + name: data for name, data in content.items()}


def zipped(path: Path, members: dict[str, bytes]) -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return str(path)


def folder(path: Path, members: dict[str, bytes]) -> str:
    for name, data in members.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return str(path)


def expected_ratings() -> pl.DataFrame:
    times = [
        datetime(2009, 12, 14, 2, 52, 24),
        datetime(2009, 12, 14, 2, 53, 25),
        datetime(2000, 12, 31, 22, 12, 40),
        datetime(1970, 1, 1),
    ]
    return pl.DataFrame(
        [
            pl.Series("user_id", [row[0] for row in RATINGS], pl.Int64),
            pl.Series("movie_id", [row[1] for row in RATINGS], pl.Int64),
            pl.Series("rating", [row[2] for row in RATINGS], pl.Float32),
            pl.Series("timestamp", times, pl.Datetime("us")),
        ]
    )


def expected_movies() -> pl.DataFrame:
    schema = {"movie_id": pl.Int64, "title": pl.String, "genres": pl.String}
    return pl.DataFrame(MOVIES, schema=schema, orient="row")


# Layouts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("under", ["", "ml-tiny/", "a/b/c d/"])
@pytest.mark.parametrize("packed", [True, False])
def test_every_layout_gives_the_same_tables(tmp_path: Path, layout: str, under: str, packed: bool) -> None:
    put = zipped if packed else folder
    source = put(tmp_path / "ml", files(layout, under))
    data = movielens.load(source)
    assert data.ratings.equals(expected_ratings())
    assert data.ratings.schema == expected_ratings().schema
    assert data.movies is not None
    assert data.movies.equals(expected_movies())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_line_ends_do_not_matter(tmp_path: Path, layout: str, end: str) -> None:
    source = folder(tmp_path, {names(layout)[0]: ratings_text(layout, end=end)})
    assert movielens.load(source).ratings.equals(expected_ratings())


def test_movies_may_be_absent_and_are_taken_from_beside_the_ratings(tmp_path: Path) -> None:
    members = {"ml/ratings.csv": ratings_text("csv"), "else/movies.csv": b"not,these\n"}
    assert movielens.load(folder(tmp_path, members)).movies is None


def test_movies_keep_further_columns_and_utf8(tmp_path: Path) -> None:
    text = "\ufeffmovieId,title,genres,country\n9,千と千尋 (2001),Animation,日本\n"
    data = movielens.load(folder(tmp_path, files("csv") | {"movies.csv": text.encode()}))
    assert data.movies is not None
    assert data.movies.rows() == [(9, "千と千尋 (2001)", "Animation", "日本")]
    members = files("dat") | {"movies.dat": "9::千と千尋 (2001)::Animation\n".encode()}
    data = movielens.load(folder(tmp_path / "ten", members))
    assert data.movies is not None
    assert data.movies["title"].to_list() == ["千と千尋 (2001)"]


def test_columns_of_a_csv_come_in_any_order_and_number(tmp_path: Path) -> None:
    text = b'timestamp,note,movieId,rating,userId\n1260759144,"hey, you",31,"2.5",1\n'
    assert movielens.load(folder(tmp_path, {"ratings.csv": text})).ratings.equals(expected_ratings()[:1])
    text = b",userId,movieId,rating,timestamp\n0,1,31,2.5,1260759144\n"
    assert movielens.load(folder(tmp_path, {"ratings.csv": text})).ratings.equals(expected_ratings()[:1])


def test_hidden_copies_of_a_mac_are_no_ratings(tmp_path: Path) -> None:
    members = files("csv", "ml/") | {"__MACOSX/ml/ratings.csv": b"\0\5", "ml/._ratings.csv": b"\0"}
    assert movielens.load(zipped(tmp_path / "ml.zip", members)).ratings.height == len(RATINGS)


def test_order_of_many_rows_is_kept(tmp_path: Path) -> None:
    rows = [(n * 7919 % 100_003, n, 0.5 + n % 10 / 2, n) for n in range(300_000)]
    for layout in LAYOUTS:
        data = movielens.load(folder(tmp_path / layout, {names(layout)[0]: ratings_text(layout, rows)}))
        assert data.ratings["user_id"].to_list() == [row[0] for row in rows]


# The published data ---------------------------------------------------------------------------------


def test_published_zip_equals_its_parquet() -> None:
    place = os.environ.get("CFJOBS_ML_LATEST_SMALL")
    if not place:
        pytest.skip("CFJOBS_ML_LATEST_SMALL names no folder with ml-latest-small.zip and ml-latest-small/")
    data = movielens.load(f"{place}/ml-latest-small.zip")
    ratings = pl.read_parquet(f"{place}/ml-latest-small/ratings.parquet")
    movies = pl.read_parquet(f"{place}/ml-latest-small/movies.parquet")
    key = ["user_id", "movie_id"]
    assert data.ratings.height == 100_004
    assert data.ratings.sort(key).equals(ratings.sort(key))
    assert data.movies is not None
    assert data.movies.sort("movie_id").equals(movies.sort("movie_id"))


# Bad lines ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (["1", "2", "3"], "has 3 fields, expected 4"),
        (["1", "2", "3", "4", "5"], "has 5 fields, expected 4"),
        (["x", "2", "3", "4"], "has the user_id 'x', expected an integer"),
        (["1", "2.5", "3", "4"], "has the movie_id '2.5', expected an integer"),
        (["1", "2", "good", "4"], "has the rating 'good', expected a number"),
        (["1", "2", "nan", "4"], "has the rating 'nan', expected a number"),
        (["1", "2", "inf", "4"], "has the rating 'inf', expected a number"),
        (["1", "2", "", "4"], "has the rating '', expected a number"),
        (["1", "2", "3", "1e9"], "has the timestamp '1e9', expected an integer"),
        (["1", "2", "3", "9" * 15], "expected seconds since 1970"),
        (["9" * 30, "2", "3", "4"], "expected an integer"),
        ([""], "fields, expected 4"),
    ],
)
@pytest.mark.parametrize("before", [0, 5000])
def test_a_bad_line_is_named(tmp_path: Path, layout: str, fields: list[str], words: str, before: int) -> None:
    good = ratings_text(layout, [RATINGS[0]] * before)
    after = ratings_text(layout).splitlines(keepends=True)[-1]
    text = good + _SEPARATOR[layout].join(fields).encode() + b"\n" + after
    source = folder(tmp_path, {names(layout)[0]: text})
    number = good.count(b"\n") + 1
    with pytest.raises(InputError, match=rf"{names(layout)[0]}: line {number} .*{words}.*; mend the line"):
        movielens.load(source)


def test_an_open_quote_is_named_though_it_swallows_the_rest(tmp_path: Path) -> None:
    text = ratings_text("csv") + b'"1,2,3,4\n' + b"1,2,3,4\n" * 50_000
    with pytest.raises(InputError, match=r"ratings.csv: line \d+ (is not CSV|has)"):
        movielens.load(folder(tmp_path, {"ratings.csv": text}))


def test_a_single_colon_is_not_a_double_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"line 2 has 3 fields"):
        movielens.load(folder(tmp_path, {"ratings.dat": b"1::2::3::4\n1:9:2::3::4\n"}))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("ratings.csv", b"", r"line 1 names the columns \(none\), expected userId"),
        ("ratings.csv", b"user,item\n1,2\n", "line 1 names the columns user, item, expected userId"),
        ("ratings.csv", b"userId,movieId,rating,timestamp\n", "holds no ratings"),
        ("u.data", b"1\t2\t1e39\t4\n", "cannot be read"),
        ("ratings.dat", b"", "holds no ratings"),
        ("u.data", b"", "holds no ratings"),
    ],
)
def test_files_without_ratings_are_refused(tmp_path: Path, name: str, text: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words):
        movielens.load(folder(tmp_path, {name: text}))


@pytest.mark.parametrize(
    ("layout", "text", "words"),
    [
        ("csv", b"movieId,title,genres\n1,a\n", "movies.csv: line 2 has 2 fields, not 3"),
        ("csv", b"movieId,title,genres\nx,a,b\n", "movies.csv: line 2 has the movie 'x'"),
        ("csv", b"id,name\n1,a\n", "line 1 names the columns id, name"),
        ("csv", b'movieId,title,genres\n1,"a"b,c\n', "line 2 is not CSV"),
        ("dat", b"1::a::b\n2::a\n", "movies.dat: line 2 has 2 fields, expected 3"),
        ("data", b"1|a|b\n", "u.item: line 1 has 3 fields, expected 24"),
    ],
)
def test_a_bad_movie_is_named(tmp_path: Path, layout: str, text: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words):
        movielens.load(folder(tmp_path, files(layout) | {names(layout)[1]: text}))


# Sources --------------------------------------------------------------------------------------------


def test_sources_without_or_with_several_ratings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no ratings \(of 1 files .* give a GroupLens zip or folder"):
        movielens.load(zipped(tmp_path / "none.zip", {"README.txt": b"hello"}))
    with pytest.raises(InputError, match=r"several ratings files \(a/ratings.csv, b/u.data\)"):
        movielens.load(zipped(tmp_path / "two.zip", files("csv", "a/") | files("data", "b/")))
    with pytest.raises(InputError, match="no such file"):
        movielens.load(str(tmp_path / "absent.zip"))
    with pytest.raises(InputError, match=r"is not a \.zip"):
        movielens.load("s3://bucket/folder")


@pytest.mark.parametrize(
    "name",
    [
        "../ratings.csv",
        "a/../../ratings.csv",
        "/etc/ratings.csv",
        "..\\ratings.csv",
        "C:/ratings.csv",
    ],
)
def test_members_that_point_outside_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    source = zipped(tmp_path / "in" / "ml.zip", files("csv") | {name: b"x"})
    with pytest.raises(InputError, match="leads out of the archive"):
        movielens.load(source)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["in", "ml.zip"]


def test_symbolic_links_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("ml/ratings.csv")
    link.create_system = 3
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "ml.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match="is a symbolic link"):
        movielens.load(str(tmp_path / "ml.zip"))


def test_zip_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = b"userId,movieId,rating,timestamp\n" + b"1,2,3,4\n" * 4_000_000
    source = zipped(tmp_path / "bomb.zip", {"ratings.csv": bomb})
    with pytest.raises(InputError, match=r"unpacks [\d,]+ bytes to more than [\d,]+, like a zip bomb"):
        movielens.load(source)
    monkeypatch.setattr(movielens, "MAX_BYTES", 100)
    with pytest.raises(InputError, match="to more than 100,"):
        movielens.load(zipped(tmp_path / "large.zip", files("csv")))


def test_a_size_that_lies_is_not_believed(tmp_path: Path) -> None:
    """The directory declares 50 bytes for a member that holds many more."""
    path = Path(zipped(tmp_path / "lie.zip", {"ratings.csv": ratings_text("csv", RATINGS * 1000)}))
    size = len(ratings_text("csv", RATINGS * 1000)).to_bytes(4, "little")
    data = path.read_bytes()
    assert data.count(size) == 2
    path.write_bytes(data.replace(size, (50).to_bytes(4, "little")))
    with pytest.raises(InputError, match="is damaged"):
        movielens.load(str(path))


def test_encrypted_zips_are_refused(tmp_path: Path) -> None:
    path = Path(zipped(tmp_path / "ml.zip", {"ratings.csv": ratings_text("csv")}))
    data = bytearray(path.read_bytes())
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + place] |= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="is encrypted; unpack it"):
        movielens.load(str(path))


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "empty"])
def test_damaged_zips_are_refused(tmp_path: Path, damage: str) -> None:
    path = Path(zipped(tmp_path / "ml.zip", {"ratings.csv": ratings_text("csv", RATINGS * 500)}))
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(
        {
            "cut": data[:middle],
            "flipped": data[:80] + bytes(255 - byte for byte in data[80:100]) + data[100:],
            "text": b"<html>404 not found</html>",
            "empty": b"",
        }[damage]
    )
    with pytest.raises(InputError, match=r"ml\.zip: is not a zip or is damaged .*; download it again"):
        movielens.load(str(path))


def test_a_wrong_offset_is_damage(tmp_path: Path) -> None:
    path = Path(zipped(tmp_path / "ml.zip", {"ratings.csv": ratings_text("csv")}))
    data = bytearray(path.read_bytes())
    data[-6:-2] = b"\xff\xff\xff\x7f"  # where the directory starts
    path.write_bytes(data)
    with pytest.raises(InputError, match="is damaged"):
        movielens.load(str(path))


def test_temporary_files_do_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    movielens.load(zipped(tmp_path / "ml.zip", files("csv")))
    with pytest.raises(InputError):
        movielens.load(zipped(tmp_path / "bad.zip", {"ratings.csv": b"a\n"}))
    assert not list((tmp_path / "tmp").iterdir())


# Import ---------------------------------------------------------------------------------------------


def test_import_writes_parts_that_add_up_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(movielens, "ROWS_A_PART", 3)
    output = str(tmp_path / "out")
    done = movielens.import_to(zipped(tmp_path / "ml.zip", files("dat", "ml-1m/")), output)
    uris = {"ratings": f"{output}/ratings", "movies": f"{output}/movies"}
    assert done == {**uris, "n_ratings": 4, "n_movies": 3, "n_users": 3}
    parts = storage.list_files(done["ratings"])
    assert [Path(part.uri).name for part in parts] == ["part-00000.parquet", "part-00001.parquet"]
    assert pl.concat([pl.read_parquet(part.uri) for part in parts]).equals(expected_ratings())
    assert pl.read_parquet(f"{output}/movies/movies.parquet").equals(expected_movies())


def test_import_without_movies(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", {"u.data": ratings_text("data")})
    done = movielens.import_to(source, str(tmp_path / "out"))
    assert done["movies"] is None
    assert done["n_movies"] == 0
    assert not (tmp_path / "out" / "movies").exists()


def test_import_does_not_mix_with_an_earlier_one(tmp_path: Path) -> None:
    source, output = folder(tmp_path / "in", files("csv")), str(tmp_path / "out")
    movielens.import_to(source, output)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.parquet")}
    with pytest.raises(InputError, match="holds 1 Parquet files; give another output"):
        movielens.import_to(source, output)
    assert before == {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.parquet")}


def test_import_is_whole_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, output = folder(tmp_path / "in", files("csv")), tmp_path / "out"
    with pytest.raises(InputError, match="line 2"):
        movielens.import_to(folder(tmp_path / "bad", {"u.data": b"1\t2\t3\t4\nx\n"}), str(output))
    assert not list(output.rglob("*.parquet"))
    monkeypatch.setattr(movielens, "ROWS_A_PART", 2)
    write = storage.write_bytes

    def fails_late(uri: str, data: bytes) -> None:
        if uri.endswith("part-00001.parquet"):
            raise StorageFault(f"{uri}: the disk is full")
        write(uri, data)

    monkeypatch.setattr(storage, "write_bytes", fails_late)
    with pytest.raises(StorageFault, match="disk is full"):
        movielens.import_to(source, str(output))
    assert not list(output.rglob("*.parquet"))


def test_import_reads_a_zip_of_an_object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("ml/ratings.csv", ratings_text("csv"))
    monkeypatch.setattr(storage, "read_bytes", {"s3://lake/raw/ml.zip": held.getvalue()}.__getitem__)
    done = movielens.import_to("s3://lake/raw/ml.zip", str(tmp_path / "out"))
    assert done["n_ratings"] == len(RATINGS)
