"""`make notebook`: executes docs/a-look-around.ipynb on three nights of generated ratings and writes it back
with its results. The same sources give the same bytes: there are no times, no paths and no random ids."""

import ast
import json
import os
import tempfile
from contextlib import redirect_stdout
from datetime import date
from io import StringIO
from pathlib import Path
from typing import Any

import polars as pl

NOTEBOOK = Path(__file__).resolve().parent / "a-look-around.ipynb"

USERS, MOVIES, RATINGS = 800, 1_000, 60_000
NIGHTS = {date(2016, 1, 1): 0.94, date(2016, 1, 2): 0.97, date(2016, 1, 3): 1.0}
"""Which share of the ratings, the oldest first, each night has."""


def publish_nights(folder: Path) -> str:
    """Generate ratings in the folder and publish the nights. Returns the output."""
    from cfjobs.config import Config
    from cfjobs.datasets import synthetic
    from cfjobs.night import story
    from cfjobs.night.records import Inputs

    data = synthetic.generate(n_users=USERS, n_movies=MOVIES, n_ratings=RATINGS, seed=1)
    ratings = data.ratings.sort("timestamp", "user_id", "movie_id")
    wrong = [
        ratings.head(7).with_columns(rating=pl.lit(None, pl.Float32)),
        ratings.head(3).with_columns(movie_id=pl.lit(None, pl.Int64)),
    ]
    data.movies.write_parquet(folder / "movies.parquet")
    output = str(folder / "out")
    for night, share in NIGHTS.items():
        until_then = ratings.head(round(share * ratings.height))
        pl.concat([until_then, *wrong]).write_parquet(folder / "ratings.parquet")
        inputs, config = Inputs(ratings=str(folder)), Config(audience=8, lists_per={"genres": 10})
        story.nightly(story.start(inputs, output=output, run_date=night, config=config))
    return output


def executed(notebook: dict[str, Any], output: str) -> dict[str, Any]:
    """The notebook with its code executed on an output, in one namespace, as Jupyter shows it."""
    names: dict[str, object] = {"__name__": "__main__"}
    cells, count = [], 0
    before = os.environ.get("CFJOBS_OUTPUT")
    os.environ["CFJOBS_OUTPUT"] = output
    try:
        with pl.Config():
            for cell in notebook["cells"]:
                if cell["cell_type"] == "code":
                    count += 1
                    outputs = _outputs("".join(cell["source"]), names, count)
                    cells.append({**cell, "execution_count": count, "outputs": outputs})
                else:
                    cells.append(cell)
    finally:
        os.environ.pop("CFJOBS_OUTPUT")
        if before is not None:
            os.environ["CFJOBS_OUTPUT"] = before
    return {**notebook, "cells": cells}


def _outputs(source: str, names: dict[str, object], count: int) -> list[dict[str, Any]]:
    """What a cell prints, and the value of the expression that it ends in."""
    where = f"{NOTEBOOK.name}, cell {count}"
    tree = ast.parse(source, where)
    last = ast.Expression(tree.body.pop().value) if isinstance(tree.body[-1], ast.Expr) else None
    with redirect_stdout(StringIO()) as printed:
        exec(compile(tree, where, "exec"), names)
        value = None if last is None else eval(compile(last, where, "eval"), names)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": _lines(printed.getvalue())})
    if value is not None:
        data = {"text/plain": _lines(repr(value))}
        for kind, method in (("text/html", "_repr_html_"), ("image/svg+xml", "_repr_svg_")):
            if hasattr(value, method):
                data[kind] = _lines(getattr(value, method)())
        shown = {"output_type": "execute_result", "execution_count": count, "data": data, "metadata": {}}
        outputs.append(shown)
    return outputs


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def main() -> None:
    """Publish, execute, write back."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        done = executed(notebook, publish_nights(Path(folder)))
    NOTEBOOK.write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
