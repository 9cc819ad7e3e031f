"""Which embedding says what movies are alike: that of the rating network,
or one of the ranking network's two?

    python -m bench.alike --output OUTPUT      a published night whose movies table has `genres`,
    as MovieLens has

For the movies with at least 20 ratings it prints the mean overlap of the genres (Jaccard) of a movie and its
ten nearest by cosine, and how well the first two principal components alone tell a comedy from a drama (area
under the ROC curve).
"""

import argparse

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cfjobs import model_store
from cfjobs.evaluation import interpret
from cfjobs.query import movies

AT_LEAST = 20
NEAREST = 10


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.alike", description=__doc__)
    parser.add_argument("--output", required=True, help="where nights are published")
    model = model_store.load_model(movies.night_of(parser.parse_args(arguments).output).run["model_uri"])
    rated = model.movies["n_ratings"].to_numpy() >= AT_LEAST
    genres = [set((text or "").split("|")) for text in model.movies["genres"].to_list()]
    embeddings = {"rating network": model.network.scores().movie.numpy()}
    if model.ranking is not None:
        embeddings["ranking, candidate"] = model.ranking.movie_vectors.numpy()
        embeddings["ranking, history"] = model.ranking.history_vectors.numpy()
    embeddings["random"] = np.random.default_rng(0).normal(size=(len(genres), 64)).astype(np.float32)
    print(f"{'embedding':<20} {'genres shared':>14} {'comedy or drama':>16}")
    for name, vectors in embeddings.items():
        print(
            f"{name:<20} {shared(vectors, genres, rated):>14.3f} {told_apart(vectors, model.movies, genres):>16.3f}"
        )


def shared(vectors: NDArray[np.float32], genres: list[set[str]], rated: NDArray[np.bool_]) -> float:
    """Mean Jaccard overlap of the genres of a movie and of its nearest."""
    rows = np.flatnonzero(rated)
    overlaps = []
    for lists in interpret.similar_movies(vectors[rows], candidates=np.ones(rows.size, np.bool_), n=NEAREST):
        for place, near in enumerate(lists.movie_idx):
            mine = genres[rows[lists.first_user + place]]
            overlaps += [len(mine & genres[rows[other]]) / len(mine | genres[rows[other]]) for other in near]
    return float(np.mean(overlaps))


def told_apart(vectors: NDArray[np.float32], movies: pl.DataFrame, genres: list[set[str]]) -> float:
    """Chance that a comedy lies on the comedies' side of a drama, along the best line through the map."""
    counts = movies["n_ratings"].to_numpy()
    places = interpret.principal_components(vectors, weight=np.sqrt(counts))
    comedy, drama = (
        np.array(
            [n >= AT_LEAST and want in g and other not in g for n, g in zip(counts, genres, strict=True)]
        )
        for want, other in (("Comedy", "Drama"), ("Drama", "Comedy"))
    )
    points = np.concatenate([places[comedy], places[drama]])
    truth = np.repeat([1.0, 0.0], [comedy.sum(), drama.sum()])
    design = np.column_stack([points, np.ones(len(points))])
    along = design @ np.linalg.lstsq(design, truth, rcond=None)[0]
    return float((along[truth == 1][:, None] > along[truth == 0]).mean())


if __name__ == "__main__":
    main()
