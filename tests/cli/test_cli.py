"""The command line as a user meets it: help, exit codes, one clear line for a mistake,
JSON on standard output."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from cfjobs import cli
from cfjobs.cli import app, plain

COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]  # a Typer of several commands is a group


Command = subprocess.CompletedProcess[str]


def cfjobs_alone(*arguments: str | Path) -> Command:
    """The command in a process of its own, as a user runs it."""
    command = [sys.executable, "-m", "cfjobs", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def cfjobs(*arguments: str | Path) -> Command:
    """The command in this process, which has loaded what it needs."""
    words = ["cfjobs", *map(str, arguments)]
    with pytest.MonkeyPatch.context() as patch, io.StringIO() as out, io.StringIO() as err:
        patch.setattr(sys, "argv", words)
        with redirect_stdout(out), redirect_stderr(err):
            code = cli.run()
        return Command(words, code, out.getvalue(), err.getvalue())


@pytest.fixture
def failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Calls the command in this process and returns the one line with which it ends."""

    def run(*arguments: str | Path, code: int = 2, **environment: str) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["cfjobs", *map(str, arguments)])
            for name, value in environment.items():
                patch.setenv(name, value)
            ended = cli.run()
        printed = capsys.readouterr().err
        assert ended == code, printed
        lines = [line for line in printed.splitlines() if line.startswith("cfjobs:")]
        assert len(lines) == 1, printed
        return lines[0]

    return run


def night(data: Path, output: Path | str, *more: str) -> list[str | Path]:
    return [
        "-q",
        "nightly",
        "--ratings",
        data,
        "--output",
        output,
        "--set",
        "epochs=1",
        "--set",
        "ranking_steps=20",
        "--set",
        "top_n=20",
        *more,
    ]


@pytest.fixture(scope="module")
def published(data_set: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    output = tmp_path_factory.mktemp("published")
    done = cfjobs_alone(*night(data_set, output, "--json"))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found | {"output": str(output)}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    done = CliRunner().invoke(app, [command, "--help"])
    assert done.exit_code == 0
    assert "Usage:" in done.stdout
    assert "--json" in done.stdout


def test_the_readme_names_every_command() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert not [command for command in COMMANDS if f"cfjobs {command}" not in readme]


def test_the_night_prints_one_json_object(published: dict[str, Any]) -> None:
    assert {"run_id", "run_date", "model_uri", "tables", "metrics", "seconds"} <= published.keys()
    assert {"rmse", "mae", "ndcg_at_10", "recall_at_10", "coverage"} <= published["metrics"].keys()
    assert Path(published["tables"]["top_n"]).is_dir()


def test_check_tells_what_a_night_would_read(data_set: Path, tmp_path: Path) -> None:
    done = cfjobs("check", "--ratings", data_set, "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["exit_code"], told["problems"]) == (0, 0, [])
    assert f"{told['counts']['kept']:,} kept" in cfjobs("check", "--ratings", data_set).stdout
    pl.DataFrame({"user": [1], "film": [2], "stars": [3.0], "ts": [4]}).write_parquet(tmp_path / "a.parquet")
    for more in ([], ["--json"]):
        done = cfjobs("check", "--ratings", tmp_path / "a.parquet", *more)
        assert done.returncode == 2
        assert "top_n: got" in (done.stdout if more else done.stderr)
    assert json.loads(done.stdout)["columns"]["movie"]["column"] == "film"


def test_an_import_tells_what_it_wrote(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("who,what\n1,2\n3,4\n", encoding="utf-8")
    words = ["import", tmp_path / "a.csv", "--output", tmp_path / "out", "--columns", "user=who,movie=what"]
    done = cfjobs(*words)
    assert done.returncode == 0, done.stderr
    assert "2 read, 2 written" in done.stdout
    done = cfjobs(*words[:3], tmp_path / "more", *words[4:], "--json")
    assert json.loads(done.stdout)["counts"]["ratings"] == {"read": 2, "written": 2, "skipped": {}}


def test_recs_prints_a_list_with_titles(published: dict[str, Any]) -> None:
    done = cfjobs("recs", "--output", published["output"], "--user", "1", "--json")
    found = json.loads(done.stdout)
    assert [movie["rank"] for movie in found["movies"]] == list(range(1, 11))
    assert all(movie["title"] for movie in found["movies"])
    for_people = cfjobs("recs", "--output", published["output"], "--user", "1")
    assert for_people.stdout.count("\n") >= 11


def test_recs_of_a_user_who_arrived_today(published: dict[str, Any], tmp_path: Path) -> None:
    def recs(*more: str) -> str:
        done = CliRunner().invoke(app, ["recs", "--output", published["output"], *more])
        assert done.exit_code == 0, done.output
        return done.stdout

    movie = json.loads(recs("--user", "1", "--json"))["movies"][0]["movie_id"]
    (tmp_path / "mine.csv").write_text(f"movie_id,rating\n{movie},5\n999999,3\n")
    found = json.loads(recs("--ratings-of", str(tmp_path / "mine.csv"), "--json"))
    assert (found["user_id"], found["unknown_movies"]) == (None, ["999999"])
    assert [row["rank"] for row in found["movies"]] == list(range(1, 11))
    assert "left out, unknown to the model: 999999" in recs("--ratings-of", str(tmp_path / "mine.csv"))
    assert CliRunner().invoke(app, ["recs", "--output", published["output"]]).exit_code == 2


def test_predict_one_pair_and_a_file(published: dict[str, Any], tmp_path: Path) -> None:
    model = published["model_uri"]
    assert (
        0.5
        <= float(cfjobs("predict", "--model", model, "--user", "1", "--movie", "nobody").stdout.split()[0])
        <= 5
    )
    pl.DataFrame({"user_id": [1, 2], "movie_id": [1, 2]}).write_parquet(tmp_path / "pairs.parquet")
    done = cfjobs(
        "predict",
        "--model",
        model,
        "--pairs",
        tmp_path / "pairs.parquet",
        "--out",
        tmp_path / "out.parquet",
        "--json",
    )
    assert json.loads(done.stdout)["rows"] == 2
    assert pl.read_parquet(tmp_path / "out.parquet").columns == ["user_id", "movie_id", "predicted_rating"]
    assert cfjobs("predict", "--model", model, "--user", "1").returncode == 2


def test_sample_train_evaluate_score(tmp_path: Path) -> None:
    data, output = tmp_path / "data", tmp_path / "out"
    assert (
        cfjobs("sample", "--output", data, "--users", "80", "--movies", "150", "--ratings", "2000").returncode
        == 0
    )
    common = [
        "--ratings",
        data,
        "--output",
        output,
        "--set",
        "epochs=1",
        "--set",
        "ranking_steps=20",
        "--set",
        "top_n=10",
        "--json",
    ]
    trained = json.loads(cfjobs("-q", "train", *common).stdout)
    measured = json.loads(cfjobs("-q", "evaluate", "--model", trained["model_uri"], *common).stdout)
    assert 0 < measured["metrics"]["rmse"] < 3
    scored = json.loads(cfjobs("-q", "score", "--model", trained["model_uri"], *common).stdout)
    assert scored["counts"]["lists"] == 80


def test_config_prints_every_key(tmp_path: Path) -> None:
    text = cfjobs("config").stdout
    (tmp_path / "night.toml").write_text(text)
    assert cfjobs("config", "--config", tmp_path / "night.toml").stdout == text
    assert "epochs" in json.loads(cfjobs("config", "--json").stdout)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.drop("movie_id"), "no column is named for the movie"),
        (lambda r: r.with_columns(pl.lit("good").alias("rating")), "'rating' is string, expected a number"),
        (lambda r: r.head(0), "hold no rows"),
        (lambda r: r.with_columns(pl.lit(None, pl.Float64).alias("rating")), "rating is missing"),
    ],
)
def test_ratings_that_will_not_do_end_with_one_line_and_nothing_written(
    failure: Callable[..., str], data_set: Path, tmp_path: Path, change: Any, message: str
) -> None:
    (tmp_path / "in").mkdir()
    change(pl.read_parquet(data_set / "ratings.parquet")).write_parquet(tmp_path / "in" / "part.parquet")
    assert message in failure(*night(tmp_path / "in", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_files_that_will_not_do(failure: Callable[..., str], data_set: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    assert "holds no .parquet file" in failure(*night(tmp_path / "empty", output))
    assert "holds no .parquet file" in failure(*night(tmp_path / "absent", output))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.parquet").write_bytes(b"PAR1 this is not Parquet")
    assert "export it again" in failure(*night(tmp_path / "broken", output))
    assert "the catalogue has" in failure(*night(data_set, output, "--set", "top_n=5000"))
    assert "did you mean epochs?" in failure(*night(data_set, output, "--set", "epoch=1"))
    assert "configuration key model: got 'magic'" in failure(*night(data_set, output, "--set", "model=magic"))
    assert "scheme 'gs'" in failure(*night(Path("x"), "gs://bucket/x"))
    assert not output.exists()


def test_an_object_store_that_will_not_do(
    failure: Callable[..., str], data_set: Path, tmp_path: Path, bucket: str
) -> None:
    assert "there is no bucket 'absent-bucket'" in failure(*night("s3://absent-bucket/x", tmp_path / "out"))  # type: ignore[arg-type]
    assert "there is no bucket 'absent-bucket'" in failure(*night(data_set, "s3://absent-bucket/x"))
    assert "access was denied" in failure(*night(data_set, f"{bucket}/x"), AWS_SECRET_ACCESS_KEY="wrong")
    unreachable = failure(*night(data_set, f"{bucket}/x"), code=1, AWS_ENDPOINT_URL="http://127.0.0.1:9")
    assert "did not answer" in unreachable
    assert not (tmp_path / "out").exists()


def test_the_gate_has_its_own_exit_code(failure: Callable[..., str], data_set: Path, tmp_path: Path) -> None:
    assert "the gate refused" in failure(
        *night(data_set, tmp_path / "out", "--set", "gate_max_rmse=0.01"), code=3
    )


def test_a_failure_is_json_too(tmp_path: Path) -> None:
    done = cfjobs(*night(tmp_path / "absent", tmp_path / "out", "--json"))
    assert json.loads(done.stdout)["exit_code"] == 2


def test_titles_cannot_steer_the_terminal() -> None:
    assert plain("\x1b[31mred\x07 [bold]x") == "?[31mred? [bold]x"


def test_secrets_do_not_reach_the_log(data_set: Path, bucket: str) -> None:
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    done = cfjobs("-v", *night(data_set, f"{bucket}/secret")[1:])
    assert done.returncode == 0, done.stderr
    assert secret not in done.stdout + done.stderr


def test_an_operator_lists_goes_back_and_cleans_up(
    data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    filled = cfjobs(
        "backfill", *night(data_set, output, "--from", "2026-03-01", "--to", "2026-03-02", "--json")[2:]
    )
    assert filled.returncode == 0, filled.stderr
    assert [n["outcome"] for n in json.loads(filled.stdout)["nights"]] == ["published", "published"]

    def answer(*arguments: str) -> dict[str, Any]:
        done = CliRunner().invoke(app, [*arguments, "--output", str(output), "--json"])
        assert done.exit_code == 0, done.output
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    assert [n["version"] for n in answer("history")["nights"]] == [0, 1]
    assert "2026-03-02" in CliRunner().invoke(app, ["history", "--output", str(output)]).stdout
    monkeypatch.setenv("CFJOBS_USER", "ada")
    assert answer("rollback", "--to", "2026-03-01", "--dry-run")["nights_gone"] == ["2026-03-02"]
    assert len(answer("history")["nights"]) == 2
    assert answer("rollback", "--to", "2026-03-01", "--reason", "a test")["who"] == "ada"
    assert len(answer("history")["nights"]) == 1
    assert "2026-03-02" not in (output / "reports" / "index.html").read_text(encoding="utf-8")
    assert answer("retain", "--nights", "1", "--dry-run")["kept"] == ["2026-03-01"]


@pytest.mark.parametrize(
    "uri",
    [
        "s3://AKIAKEY:plantedSECRET@lake/x",
        "s3://AKIAKEY:planted/SE@CRET@lake/x",
        "s3://AKIAKEY:plantedSECRET",
        "https://me:planted@host/x",
    ],
)
def test_credentials_in_a_uri_are_refused_and_not_shown(
    uri: str, data_set: Path, failure: Callable[..., str]
) -> None:
    for place in (("--ratings", uri, "--output", "out"), ("--ratings", str(data_set), "--output", uri)):
        line = failure("nightly", *place)
        assert "has credentials in it" in line
        assert "planted" not in line
        assert "CRET@" not in line


def test_credentials_in_the_endpoint_are_refused_and_not_shown(failure: Callable[..., str]) -> None:
    arguments = ("history", "--output", "s3://lake/x")
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    line = failure(*arguments, AWS_ENDPOINT_URL="http://me:planted@127.0.0.1:9", **keys)
    assert "AWS_ENDPOINT_URL http://***@127.0.0.1:9: has credentials in it" in line


def test_an_old_night_is_an_exit_code_for_cron(
    two_nights: Path, failure: Callable[..., str], tmp_path: Path
) -> None:
    output = ("--output", two_nights / "out")
    assert cfjobs("history", *output, "--max-age", "26h").returncode == 0
    assert "was published" in failure("history", *output, "--max-age", "0.0001m", code=4)
    assert "no night" in failure("history", "--output", tmp_path, "--max-age", "26h", code=4)
    assert "26h" in failure("history", *output, "--max-age", "soon")
