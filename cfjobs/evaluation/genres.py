"""The genres of the movies, where the movies table has a column that reads like them."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

MOST_GENRES = 40
_OTHER = ("movie_id", "title")


def genres(movies: pl.DataFrame) -> pl.DataFrame:
    """movie_id, genre: of the first column of the movies table that reads like a list of genres, each pair
    once; empty for none. A column is text, several divided by |, ; or a comma, or a list of text."""
    for name in movies.columns:
        kind = movies.schema[name]
        if name in _OTHER or kind not in {pl.String, pl.List(pl.String)}:
            continue
        words = pl.col(name)
        if kind == pl.String:
            words = words.str.replace_all("[|;]", ",").str.split(",")
        found = (
            movies.select("movie_id", words.alias("genre"))
            .explode("genre")
            .with_columns(pl.col("genre").str.strip_chars())
            .filter(pl.col("genre") != "")
            .unique()
        )
        if 1 < found["genre"].n_unique() <= MOST_GENRES:
            return found
    return movies.select("movie_id", pl.lit("").alias("genre")).clear()


def genre_matrix(movies: pl.DataFrame) -> NDArray[np.float64] | None:
    """Each movie's share in each genre [M, G], a row that sums to 1, or to 0 where the movie has none;
    None where genres are not known. movies: movie_id by row, and further columns."""
    found = genres(movies)
    if found.is_empty():
        return None
    names = found["genre"].unique().sort()
    rows = movies.select("movie_id").with_row_index("row").join(found, on="movie_id")
    matrix = np.zeros((movies.height, names.len()))
    matrix[rows["row"].to_numpy(), names.search_sorted(rows["genre"]).to_numpy()] = 1.0
    shares: NDArray[np.float64] = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1.0)
    return shares
