"""Imports: every family by its content, whatever its files are called and packed in; counts that add up."""

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cfjobs import storage
from cfjobs.datasets import archive, importing, table, text
from cfjobs.errors import InputError, StorageFault

Files = Mapping[str, str | bytes]


def folder(path: Path, files: Files) -> str:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def zipped(path: Path, files: Files) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return str(path)


def tarred(path: Path, files: Files) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix != ".tar" else "w") as packed:
        for name, content in files.items():
            data = content if isinstance(content, bytes) else content.encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            packed.addfile(entry, io.BytesIO(data))
    return str(path)


def zstd(data: bytes) -> bytes:
    return pa.Codec("zstd").compress(data, asbytes=True)


Rows = list[dict[str, Any]]


def imported(source: str, output: Path, **more: Any) -> tuple[importing.Imported, dict[str, Rows]]:
    """What an import says, and the rows of its tables; the counts of each add up."""
    done = importing.import_to(source, str(output), **more)
    rows = {
        name: pl.read_parquet(uri).to_dicts()
        for name in ("ratings", "movies", "users")
        if (uri := done[name])
    }  # type: ignore[literal-required]
    for name, count in done["counts"].items():
        assert count["read"] == count["written"] + sum(count["skipped"].values())
        assert count["written"] == len(rows[name])
    assert done["n_ratings"] == len(rows["ratings"])
    assert done["n_users"] == len({row["user_id"] for row in rows["ratings"]})
    return done, rows


# Families -------------------------------------------------------------------------------------------

AT = datetime(2009, 12, 14, 2, 52, 24)
ITEM = (
    "31|Dangerous Minds (1995)|01-Jan-1995||http://x|"
    + "|".join("1" if n == 8 else "0" for n in range(19))
    + "\n"
)
JESTER = ",".join(["2", "-7.5", "99", "3.25", *["99"] * 97])

CASES: dict[str, tuple[str, Files, dict[str, Rows]]] = {
    "ml-latest": (
        "MovieLens",
        {
            "ml/ratings.csv": "userId,movieId,rating,timestamp\r\n1,31,2.5,1260759144\r\n2,10,4.0,835355493\r\n",
            "ml/movies.csv": 'movieId,title,genres\n31,"Minds, Dangerous (1995)",Drama|Crime\n10,GoldenEye (1995),Action\n',
            "ml/tags.csv": "userId,movieId,tag,timestamp\n1,31,good,1260759144\n",
            "ml/genome-scores.csv": "movieId,tagId,relevance\n31,1,0.9\n31,2,0.2\n31,3,0.95\n10,2,0.1\n",
            "ml/genome-tags.csv": "tagId,tag\n1,school\n2,space\n3,based on a book\n",
        },
        {
            "ratings": [{"user_id": 1, "movie_id": 31, "rating": 2.5, "timestamp": AT}],
            "movies": [
                {
                    "movie_id": 31,
                    "title": "Minds, Dangerous (1995)",
                    "genres": "Drama|Crime",
                    "genome_tags": "based on a book|school",
                }
            ],
        },
    ),
    "ml-1m": (
        "MovieLens",
        {
            "ratings.dat": "1::31::3::1260759144\n2::10::5::978302109\n",
            "movies.dat": "31::Dangerous: Minds::x (1995)::Drama\n10::Voil\xe0 (1995)::Action|Crime\n".encode(
                "latin-1"
            ),
            "users.dat": "1::F::1::10::48067\n2::M::56::16::70072\n",
        },
        {
            "ratings": [{"user_id": 1, "movie_id": 31, "rating": 3.0, "timestamp": AT}],
            "movies": [{"movie_id": 31, "title": "Dangerous: Minds::x (1995)", "genres": "Drama"}],
            "users": [{"user_id": 1, "gender": "F", "age": 1.0, "occupation": "10", "zip": "48067"}],
        },
    ),
    "ml-10m": (
        "MovieLens",
        {"r": "1::31::2.5::1260759144\n", "tags.dat": "15::4973::excellent!::1215184630\n"},
        {"ratings": [{"user_id": 1, "movie_id": 31, "rating": 2.5, "timestamp": AT}]},
    ),
    "ml-100k": (
        "MovieLens",
        {
            "ml-100k/u.data": "1\t31\t3\t1260759144\n2\t10\t4\t881250949\n",
            "ml-100k/u1.base": "1\t31\t3\t1260759144\n",
            "ml-100k/u.item": ITEM,
            "ml-100k/u.user": "1|24|M|technician|85711\n2|53|F|other|94043\n",
        },
        {
            "ratings": [{"user_id": 1, "movie_id": 31, "rating": 3.0, "timestamp": AT}],
            "movies": [{"movie_id": 31, "title": "Dangerous Minds (1995)", "genres": "Drama"}],
            "users": [{"user_id": 1, "age": 24.0, "gender": "M", "occupation": "technician", "zip": "85711"}],
        },
    ),
    "kaggle-20m": (
        "MovieLens",
        {
            "rating.csv": '"userId","movieId","rating","timestamp"\n1,31,3.5,"2009-12-14 02:52:24"\n',
            "movie.csv": '"movieId","title","genres"\n31,"Dangerous Minds (1995)","Drama"\n',
        },
        {"ratings": [{"user_id": 1, "movie_id": 31, "rating": 3.5, "timestamp": AT}]},
    ),
    "netflix": (
        "Netflix Prize",
        {
            "combined_data_1.txt": "1:\n1488844,3,2005-09-06\n822109,5,2005-05-13\n2:\n885013,4,2005-10-19\n",
            "combined_data_2.txt": "4500:\n2532865,4,2005-07-26\n",
            "movie_titles.csv": "1,2003,Dinosaur Planet\n2,NULL,Isle of Man, TT\xe9 Review\n".encode(
                "latin-1"
            ),
            "probe.txt": "1:\n1488844\n",
            "qualifying.txt": "1:\n1046323,2005-12-19\n",
        },
        {
            "ratings": [
                {"user_id": 1488844, "movie_id": 1, "rating": 3.0, "timestamp": datetime(2005, 9, 6)},
                {"user_id": 822109, "movie_id": 1, "rating": 5.0, "timestamp": datetime(2005, 5, 13)},
                {"user_id": 885013, "movie_id": 2, "rating": 4.0, "timestamp": datetime(2005, 10, 19)},
                {"user_id": 2532865, "movie_id": 4500, "rating": 4.0, "timestamp": datetime(2005, 7, 26)},
            ],
            "movies": [
                {"movie_id": 1, "title": "Dinosaur Planet", "year": 2003.0},
                {"movie_id": 2, "title": "Isle of Man, TT\xe9 Review", "year": None},
            ],
        },
    ),
    "amazon-2014": (
        "Amazon Reviews",
        {
            "ratings_Books.csv": "A2EFCYXHNK06IS,5555991584,5.0,1260759144\nA1WR23ER5HMAA9,B00005N7P0,4.0,953424000\n"
        },
        {
            "ratings": [
                {"user_id": "A2EFCYXHNK06IS", "movie_id": "5555991584", "rating": 5.0, "timestamp": AT}
            ]
        },
    ),
    "amazon-2018": (
        "Amazon Reviews",
        {"Books.csv": "0001713353,A1C6M8LCIX4M6M,5.0,1260759144\n"},
        {
            "ratings": [
                {"user_id": "A1C6M8LCIX4M6M", "movie_id": "0001713353", "rating": 5.0, "timestamp": AT}
            ]
        },
    ),
    "amazon-2023": (
        "Amazon Reviews",
        {
            "a.csv": "user_id,parent_asin,rating,timestamp\nAFKZENTNBQ7A7V7UXW5JJI6UGRYQ,B07SJX9F3C,1.0,1260759144000\n",
        },
        {
            "ratings": [
                {
                    "user_id": "AFKZENTNBQ7A7V7UXW5JJI6UGRYQ",
                    "movie_id": "B07SJX9F3C",
                    "rating": 1.0,
                    "timestamp": AT,
                }
            ]
        },
    ),
    "amazon-json": (
        "Amazon Reviews",
        {
            "All_Beauty.json.gz": gzip.compress(
                b'{"overall": 4.0, "reviewerID": "A3CIUOJXQ5VDQ2", "asin": "B0000530HU", "style": {"a": [1]}, '
                b'"reviewText": "so\\n\\"so\\"", "unixReviewTime": 1260759144}\n'
            ),
            "meta_All_Beauty.json": '{"asin": "B0000530HU", "title": "Aqua", "main_category": "Beauty", "price": 3}\n',
        },
        {
            "ratings": [
                {"user_id": "A3CIUOJXQ5VDQ2", "movie_id": "B0000530HU", "rating": 4.0, "timestamp": AT}
            ],
            "movies": [{"movie_id": "B0000530HU", "title": "Aqua", "main_category": "Beauty"}],
        },
    ),
    "goodbooks": (
        "Goodbooks-10k",
        {
            "ratings.csv": "user_id,book_id,rating\n1,258,5\n2,4081,4\n",
            "books.csv": "book_id,goodreads_book_id,authors,original_publication_year,title,language_code\n"
            '258,99,"A. Z., B. C.",2001.0,"The Shadow, of",eng\n',
            "to_read.csv": "user_id,book_id\n9,8\n",
            "book_tags.csv": "goodreads_book_id,tag_id,count\n1,2,3\n",
        },
        {
            "ratings": [
                {"user_id": 1, "movie_id": 258, "rating": 5.0},
                {"user_id": 2, "movie_id": 4081, "rating": 4.0},
            ],
            "movies": [
                {
                    "movie_id": 258,
                    "authors": "A. Z., B. C.",
                    "original_publication_year": 2001.0,
                    "title": "The Shadow, of",
                    "language_code": "eng",
                }
            ],
        },
    ),
    "book-crossing": (
        "Book-Crossing",
        {
            "BX-Book-Ratings.csv": '"User-ID";"ISBN";"Book-Rating"\r\n"276725";"034545104X";"0"\r\n"276726";"0155061224";"5"\r\n',
            "BX-Books.csv": '"ISBN";"Book-Title";"Book-Author";"Year-Of-Publication";"Publisher";"Image-URL-S"\n'
            '"0155061224";"Rites \\"of\\" Passage; caf\xe9";"Judith Rae";"2001";"Heinle";"http://x"\n'.encode(
                "latin-1"
            ),
            "BX-Users.csv": '"User-ID";"Location";"Age"\n"276726";"seattle, usa";NULL\n"1";"nyc";"18"\n',
        },
        {
            "ratings": [{"user_id": 276726, "movie_id": "0155061224", "rating": 5.0}],
            "movies": [
                {
                    "movie_id": "0155061224",
                    "title": 'Rites "of" Passage; caf\xe9',
                    "author": "Judith Rae",
                    "year": 2001.0,
                    "publisher": "Heinle",
                }
            ],
            "users": [
                {"user_id": 276726, "location": "seattle, usa", "age": None},
                {"user_id": 1, "location": "nyc", "age": 18.0},
            ],
        },
    ),
    "jester": (
        "Jester",
        {"jester-data-1.csv": f"{JESTER}\n{JESTER}\n", "jester-data-2.csv": f"{JESTER}\n"},
        {
            "ratings": [
                {"user_id": 1, "movie_id": 1, "rating": -7.5},
                {"user_id": 2, "movie_id": 1, "rating": -7.5},
                {"user_id": 1, "movie_id": 3, "rating": 3.25},
                {"user_id": 2, "movie_id": 3, "rating": 3.25},
                {"user_id": 3, "movie_id": 1, "rating": -7.5},
                {"user_id": 3, "movie_id": 3, "rating": 3.25},
            ]
        },
    ),
    "jester-listed": (
        "Jester",
        {"jester_ratings.dat": "1\t\t5\t\t0.219\n1\t\t7\t\t-9.281\n"},
        {"ratings": [{"user_id": 1, "movie_id": 5, "rating": pytest.approx(0.219)}]},
    ),
    "lastfm-360k": (
        "Last.fm 360K",
        {
            "plays.tsv": f'{"0" * 40}\t3bd73256-3905\tbetty "blowtorch\t2137\n{"1" * 40}\t\tno id\t12\n{"1" * 40}\t3bd73256-3905\tbetty\t1\n'
        },
        {
            "ratings": [
                {"user_id": "0" * 40, "movie_id": "3bd73256-3905", "weight": 2137.0},
                {"user_id": "1" * 40, "movie_id": "no id", "weight": 12.0},
                {"user_id": "1" * 40, "movie_id": "3bd73256-3905", "weight": 1.0},
            ],
            "movies": [
                {"movie_id": "3bd73256-3905", "title": 'betty "blowtorch'},
                {"movie_id": "no id", "title": "no id"},
            ],
        },
    ),
    "lastfm-1k": (
        "Last.fm 1K",
        {"p.tsv": "user_000001\t2009-12-14T02:52:24Z\tf1b1cf71\tDeep Dish\t\tFuck Me\n"},
        {
            "ratings": [{"user_id": "user_000001", "movie_id": "f1b1cf71", "weight": 1.0, "timestamp": AT}],
            "movies": [{"movie_id": "f1b1cf71", "title": "Deep Dish"}],
        },
    ),
    "lastfm-hetrec": (
        "Last.fm HetRec 2011",
        {
            "user_artists.dat": "userID\tartistID\tweight\n2\t51\t13883\n",
            "artists.dat": 'id\tname\turl\tpictureURL\n51\tMALICE MIZER\thttp://x\thttp://y\n52\t"Weird Al" Yankovic\thttp://x\thttp://y\n',
            "user_friends.dat": "userID\tfriendID\n2\t275\n",
        },
        {
            "ratings": [{"user_id": 2, "movie_id": 51, "weight": 13883.0}],
            "movies": [
                {"movie_id": 51, "title": "MALICE MIZER"},
                {"movie_id": 52, "title": '"Weird Al" Yankovic'},
            ],
        },
    ),
    "movietweetings": (
        "MovieTweetings",
        {
            "ratings.dat": "1::0114508::8::1260759144\n2::11358390::3::1381620027\n",
            "movies.dat": "0114508::Species (1995)::Action|Horror\n11358390::X ()::\n",
            "users.dat": "1::139564917\n",
        },
        {
            "ratings": [{"user_id": 1, "movie_id": "0114508", "rating": 8.0, "timestamp": AT}],
            "movies": [{"movie_id": "0114508", "title": "Species (1995)", "genres": "Action|Horror"}],
        },
    ),
    "yelp": (
        "Yelp",
        {
            "review.json": '{"review_id":"r","user_id":"u","business_id":"b","stars":3.0,"useful":0,"text":"x\\ny","date":"2009-12-14 02:52:24"}\n',
            "business.json": '{"business_id":"b","name":"Pub","city":"Y","state":"PA","stars":3,"categories":"Bars, Pubs"}\n',
            "user.json": '{"user_id":"u","name":"Walker","yelping_since":"2007-01-25 16:47:26","friends":"a, b"}\n',
        },
        {
            "ratings": [{"user_id": "u", "movie_id": "b", "rating": 3.0, "timestamp": AT}],
            "movies": [
                {"movie_id": "b", "title": "Pub", "categories": "Bars|Pubs", "city": "Y", "state": "PA"}
            ],
            "users": [{"user_id": "u", "yelping_since": "2007-01-25 16:47:26"}],
        },
    ),
    "names": (
        "a table with names",
        {
            "interactions.csv": ",user,item,stars,date\n0,ann,7,4,2009-12-14\n1,bob,8,2,2010-01-01\n",
            "items.csv": "item_id,name,price,rating,fault\n7,Seven,3,,x\n",
        },
        {
            "ratings": [
                {"user_id": "ann", "movie_id": 7, "rating": 4.0, "timestamp": datetime(2009, 12, 14)}
            ],
            "movies": [{"movie_id": 7, "title": "Seven", "price": "3", "rating": None, "fault": "x"}],
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_every_family_is_known_by_its_content(case: str, tmp_path: Path) -> None:
    family, files, expected = CASES[case]
    done, rows = imported(folder(tmp_path / "in", files), tmp_path / "out")
    assert done["family"] == family
    assert {
        name: found[: len(expected[name])] for name, found in rows.items() if name in expected
    } == expected
    assert set(rows) >= set(expected)


@pytest.mark.parametrize(
    "case", sorted(set(CASES) - {"ml-100k"})
)  # whose splits are told from it by name alone
def test_the_names_of_the_files_do_not_matter(case: str, tmp_path: Path) -> None:
    family, files, expected = CASES[case]
    renamed = {f"{number}.bin": content for number, content in enumerate(files.values())}
    done, rows = imported(zipped(tmp_path / "in.zip", renamed), tmp_path / "out")
    assert done["family"] == family
    for name in expected:
        assert rows[name][: len(expected[name])] == expected[name]


def test_every_family_has_a_case() -> None:
    named = {family for family, _, _ in CASES.values()}
    assert [f.name for f in importing.known() if not any(n.startswith(f.name) for n in named)] == [
        "any CSV whose first line names user and item"
    ]


# Other tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "columns", "expected"),
    [
        (
            "who;what;how\nann;007;3\nbob;8;4\n",
            "user=who,movie=what,rating=how",
            [("ann", "007", 3.0), ("bob", "8", 4.0)],
        ),
        ("1|5|x|2.5\n2|6|y|3\n", "user=1,movie=2,rating=4", [(1, 5, 2.5), (2, 6, 3.0)]),
        ("a::b::4\nc::d::5\n", "user=1,movie=2,rating=3", [("a", "b", 4.0), ("c", "d", 5.0)]),
        ('u,m,note\n1,2,"a\nb ""c"""\n3,4,\n', "user=u,movie=m", [(1, 2), (3, 4)]),
    ],
)
def test_any_other_table_is_taken_by_its_columns(
    content: str, columns: str, expected: list[Any], tmp_path: Path
) -> None:
    source = folder(tmp_path / "in", {"x.txt": content})
    _, rows = imported(source, tmp_path / "out", columns=table.parse(columns))
    assert [tuple(row.values()) for row in rows["ratings"]] == expected


def test_columns_that_are_left_out_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "club.csv").write_text("member,film,points,seen_at\n1,2,5,2026-01-01\n3,2,4,2026-01-02\n")
    importing.import_to(str(tmp_path / "club.csv"), str(tmp_path / "out"))
    assert "leaves out 'points', 'seen_at'" in caplog.text


def test_ids_become_text_where_a_later_one_is_none_of_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "CHUNK_BYTES", 64)
    lines = "".join(f"{n},{n},3\n" for n in range(100)) + "7,x9,4\n" + "8,8,3\n" * 50 + "u7,9,4\n"
    source = folder(tmp_path / "in", {"x.csv": f"user,item,rating\n{lines}"})
    _, rows = imported(source, tmp_path / "out")
    assert len(rows["ratings"]) == 152
    assert (rows["ratings"][0]["user_id"], rows["ratings"][0]["movie_id"]) == ("0", "0")


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        ("user=a", "says no movie; add movie=NAME"),
        ("user=a,film=b", "'film=b' is not one of user=NAME"),
        ("user=a,movie=a", "has a column twice"),
    ],
)
def test_wrong_columns_are_explained(columns: str, line: str) -> None:
    with pytest.raises(InputError, match=line):
        table.parse(columns)


def test_absent_columns_are_explained(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", {"x.csv": "a,b\n1,2\n"})
    with pytest.raises(InputError, match=r"no file has the columns a, c \(got x.csv: a, b\)"):
        importing.import_to(source, str(tmp_path / "out"), columns={"user": "a", "movie": "c"})


# Counts ---------------------------------------------------------------------------------------------

CELL = st.sampled_from(
    ["1", "2", "17", "", "x", "3.5", "nan", "-1", '"', '"a"b', "99999999999999999999", " 4 ", "\xe9"]
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(CELL, min_size=1, max_size=6), max_size=30), st.sampled_from([64, 1 << 20]))
def test_counts_always_add_up(tmp_path: Path, rows: list[list[str]], chunk: int) -> None:
    """Whatever the lines are: those read are those written and those skipped, and each line without quotes is
    one."""
    lines = [",".join(row) for row in rows]
    source = folder(
        tmp_path / "in", {"x.csv": "\n".join(["user_id,item_id,rating,ts", "1,2,3,4", *lines]) + "\n"}
    )
    storage.delete_under(str(tmp_path / "out"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "CHUNK_BYTES", chunk)
        done, written = imported(source, tmp_path / "out", max_skipped=1.0)
    assert str(written["ratings"][0]["user_id"]) == "1"
    if '"' not in "".join(lines):
        assert done["counts"]["ratings"]["read"] == 1 + len(lines)


def test_skipped_rows_are_counted_by_reason_and_too_many_refused(tmp_path: Path) -> None:
    good = "".join(f"{n}\t{n}\t3\t4\n" for n in range(1, 100))
    source = folder(tmp_path / "in", {"u.data": good + "x\t2\t3\t4\n1\t2\t3\t4\t5\n1\t2\n"})
    done, _ = imported(source, tmp_path / "out")
    assert done["counts"]["ratings"]["skipped"] == {
        "user is not an integer": 1,
        "line has too many fields": 1,
        "rating is missing": 1,
    }
    with pytest.raises(
        InputError,
        match=r"u.data: 3 of 102 rows cannot be read.*first row 100.*or raise --max-skipped \(now 0.01\)",
    ):
        importing.import_to(source, str(tmp_path / "no"), max_skipped=0.01)
    assert not (tmp_path / "no").exists() or not list((tmp_path / "no").iterdir())


def test_an_open_quote_costs_its_line_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "CHUNK_BYTES", 200)
    monkeypatch.setattr(text, "_OPEN_QUOTE_BYTES", 400)
    rows = "".join(f"{n},{n},3,4\n" for n in range(1, 500))
    source = folder(tmp_path / "in", {"r.csv": f'userId,movieId,rating,timestamp\n1,"2,3,4\n{rows}'})
    done, _ = imported(source, tmp_path / "out")
    assert done["counts"]["ratings"] == {"read": 500, "written": 499, "skipped": {"line is not CSV": 1}}


def test_lines_that_are_no_json_are_skipped(tmp_path: Path) -> None:
    review = CASES["yelp"][1]["review.json"]
    assert isinstance(review, str)
    source = folder(
        tmp_path / "in", {"r.json": review * 50 + "{broken\n[1]\n" + review.replace('"u"', "null")}
    )
    done, _ = imported(source, tmp_path / "out", max_skipped=0.5)
    assert done["counts"]["ratings"]["skipped"] == {"line is not JSON": 2, "user is missing": 1}


# Archives -------------------------------------------------------------------------------------------

ML = {"ml/u.data": "1\t31\t3\t1260759144\n2\t10\t4\t881250949\n"}
CSV = b"userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n"


def nested(path: Path) -> str:
    inner = Path(
        tarred(path / "training.tar", {f"mv_{n:04d}.txt": f"{n}:\n5,3,2005-09-06\n" for n in range(1, 4)})
    )
    return tarred(path / "nf.tgz", {"download/training.tar": inner.read_bytes(), "README": "x"})


@pytest.mark.parametrize(
    ("pack", "n"),
    [
        (lambda p: folder(p / "ml", ML), 2),
        (lambda p: folder(p, ML) + "/ml/u.data", 2),
        (lambda p: zipped(p / "a.zip", ML), 2),
        (lambda p: tarred(p / "a.tar", ML), 2),
        (lambda p: tarred(p / "a.tar.gz", ML), 2),
        (lambda p: folder(p, {"a.csv.gz": gzip.compress(CSV)}) + "/a.csv.gz", 1),
        (lambda p: folder(p, {"a.csv.zst": zstd(CSV)}) + "/a.csv.zst", 1),
        (lambda p: folder(p, {"noname": gzip.compress(CSV)}) + "/noname", 1),
        (lambda p: zipped(p / "b.zip", {"a.csv.gz": gzip.compress(CSV)}), 1),
        (
            lambda p: (
                folder(p, {"t.tar.zst": zstd(Path(tarred(p / "x.tar", ML)).read_bytes())}) + "/t.tar.zst"
            ),
            2,
        ),
        (nested, 3),
        (lambda p: zipped(p / "c.zip", {**ML, "__MACOSX/ml/u.data": b"\0", "ml/._u.data": b"\0\5"}), 2),
    ],
)
def test_however_it_is_packed(pack: Callable[[Path], str], n: int, tmp_path: Path) -> None:
    done, _ = imported(pack(tmp_path / "in"), tmp_path / "out")
    assert done["n_ratings"] == n


def test_an_object_store_is_read_in_place(bucket: str, tmp_path: Path) -> None:
    packed = Path(zipped(tmp_path / "a.zip", ML)).read_bytes()
    storage.write_bytes(f"{bucket}/in/a.zip", packed)
    done = importing.import_to(f"{bucket}/in/a.zip", f"{bucket}/out")
    assert done["n_ratings"] == 2
    assert storage.exists(f"{bucket}/out/ratings.parquet")


def damaged(data: bytes, how: str) -> bytes:
    middle = len(data) // 2
    return {
        "cut": data[:middle],
        "flipped": data[:80] + bytes(255 - byte for byte in data[80:100]) + data[100:],
        "text": b"<html>404 not found</html>",
        "empty": b"",
    }[how]


MANY = {"u.data": "".join(f"{n}\t{n * 7919 % 1000}\t3\t{n}\n" for n in range(1, 5000))}


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "gz"])
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("cut", "is a damaged"),
        ("flipped", "is a damaged"),
        ("text", "is not an archive .begins with b'<html>"),
        ("empty", r"is empty \(0 bytes\)"),
    ],
)
def test_what_is_wrong_with_an_archive_is_said(kind: str, how: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "gz":
        path.write_bytes(gzip.compress(MANY["u.data"].encode()))
    else:
        (zipped if kind == "zip" else tarred)(path, MANY)
    path.write_bytes(damaged(path.read_bytes(), how))
    with pytest.raises(InputError, match=rf"a\.{kind}.*{words}.*; download it again"):
        importing.import_to(str(path), str(tmp_path / "out"))
    assert not list(tmp_path.glob("out/*"))


def test_nothing_recognised_says_what_is_there(tmp_path: Path) -> None:
    source = zipped(tmp_path / "a.zip", {"b.txt": "hello", "c.xls": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0"})
    line = r"nothing is recognised inside \(got b.txt, c.xls\); c.xls is an Excel file: save it as CSV.*--columns"
    with pytest.raises(InputError, match=line):
        importing.import_to(source, str(tmp_path / "out"))
    source = folder(tmp_path / "c", {"c.csv": "customer_id,uid,itemId,stars\n1,2,3,4\n"})
    with pytest.raises(InputError, match="add --columns user=customer_id,movie=itemId,rating=stars"):
        importing.import_to(source, str(tmp_path / "out"))
    with pytest.raises(InputError, match="no such file"):
        importing.import_to(str(tmp_path / "absent.zip"), str(tmp_path / "out"))
    with pytest.raises(InputError, match=r"one of several ratings files \(a/r.csv, b/r.csv\)"):
        importing.import_to(
            zipped(tmp_path / "2.zip", {"a/r.csv": CSV, "b/r.csv": CSV}), str(tmp_path / "out")
        )


@pytest.mark.parametrize("name", ["../u.data", "a/../../u.data", "/etc/u.data", "..\\u.data", "C:/u.data"])
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_members_that_point_outside_are_refused(
    pack: Callable[[Path, Files], str], name: str, tmp_path: Path
) -> None:
    source = pack(tmp_path / "in" / "a.tgz", {**ML, name: "x"})
    with pytest.raises(InputError, match="leads out of the archive"):
        importing.import_to(source, str(tmp_path / "out"))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tgz", "in"]


def test_links_and_encrypted_members_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("ml/u.data")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "l.zip", "w") as packed:
        packed.writestr(link, "/etc/passwd")
    entry = tarfile.TarInfo("ml/u.data")
    entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tmp_path / "l.tar", "w") as tar:
        tar.addfile(entry)
    data = bytearray(Path(zipped(tmp_path / "e.zip", ML)).read_bytes())
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + place] |= 1
    (tmp_path / "e.zip").write_bytes(data)
    for name, words in (
        ("l.zip", "is a symbolic link"),
        ("l.tar", "is a link"),
        ("e.zip", "is encrypted; unpack it"),
    ):
        with pytest.raises(InputError, match=words):
            importing.import_to(str(tmp_path / name), str(tmp_path / "out"))


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = b"1\t2\t3\t4\n" * 4_000_000
    for source in (
        zipped(tmp_path / "b.zip", {"u.data": bomb}),
        folder(tmp_path, {"b.gz": gzip.compress(bomb)}) + "/b.gz",
    ):
        with pytest.raises(InputError, match=r"unpacks to more than [\d,]+ bytes, like a zip bomb"):
            importing.import_to(source, str(tmp_path / "out"))
    monkeypatch.setattr(archive, "MAX_BYTES", 20)
    with pytest.raises(InputError, match="to more than 20 bytes"):
        importing.import_to(zipped(tmp_path / "large.zip", ML), str(tmp_path / "out"))


# Output ---------------------------------------------------------------------------------------------


def test_an_import_does_not_mix_with_an_earlier_one(tmp_path: Path) -> None:
    source, output = folder(tmp_path / "in", ML), str(tmp_path / "out")
    importing.import_to(source, output)
    with pytest.raises(InputError, match=r"holds .*/ratings.parquet already; give another output"):
        importing.import_to(source, output)


def test_an_import_is_whole_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder(tmp_path / "in", CASES["ml-1m"][1])

    def fails(*_: Any) -> None:
        raise StorageFault("the disk is full")

    monkeypatch.setattr(
        importing._Sink, "close", lambda sink, share: fails() if sink.name == "users" else sink._flush()
    )
    with pytest.raises(StorageFault, match="disk is full"):
        importing.import_to(source, str(tmp_path / "out"))
    assert not list(tmp_path.glob("out/*"))


def test_order_and_parts_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "CHUNK_BYTES", 1 << 16)
    monkeypatch.setattr(importing, "ROW_GROUP", 10_000)
    seen: list[tuple[str, float]] = []
    _, rows = imported(
        folder(tmp_path / "in", {"r.dat": "".join(f"{n}::{n % 97}::3::{n}\n" for n in range(60_000))}),
        tmp_path / "out",
        progress=lambda stage, share, words: seen.append((stage, share)),
    )
    assert [row["user_id"] for row in rows["ratings"]] == list(range(60_000))
    assert seen[-1] == ("ratings", 1.0)
    assert json.loads(json.dumps(seen)) == [list(line) for line in sorted(seen)]
