"""Of the page: the map of the movies, and the best loved ones."""

import json

import polars as pl

from cfjobs.report.facts import Facts
from cfjobs.report.html import grid, section, table, text, title


def movie_map(facts: Facts) -> str:
    """A map of the movies by taste, which the script fills."""
    options = "".join(
        f'<option value="{text(label)}">{text(label)} ({len(places):,})</option>'
        for label, places in facts.labels.items()
    )
    pick = (
        f'<select id="map-label" aria-label="Highlight a kind"><option value="">every kind</option>{options}</select>'
        if options
        else ""
    )
    return section(
        "Map of the movies",
        "First two principal components of the embeddings: movies near each other please the same people. Larger is more rated; "
        "blue is better loved than its audience explains, orange worse. Drag to move, wheel or pinch to zoom, point for a title.",
        f"""<div class="card" id="map-card">
<div class="map-tools"><input id="map-search" type="search" placeholder="Highlight titles with …" aria-label="Highlight titles">{pick}<button id="map-whole" type="button">Whole map</button></div>
<div class="map-frame"><canvas id="map" tabindex="0" aria-label="Map of {facts.movies.height:,} movies"></canvas><div id="tip"></div></div>
<noscript><p class="note">The map needs JavaScript; movie_embeddings has its points.</p></noscript>
</div>""",
    )


def map_data(facts: Facts) -> str:
    """The points of the map, as JSON that is safe inside a script element."""
    movies = facts.movies
    found = {
        "title": [title(row) for row in movies.select("movie_id", "title").to_dicts()],
        "n": movies["n_ratings"].to_list(),
        "x": [round(value, 3) for value in movies["pc1"].to_list()],
        "y": [round(value, 3) for value in movies["pc2"].to_list()],
        "bias": [round(value, 2) for value in movies["bias"].to_list()],
        "labels": facts.labels,
    }
    data = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
    return data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def loved(facts: Facts) -> str:
    """The movies with the highest and the lowest biases."""

    def rows(movies: pl.DataFrame) -> str:
        return table(
            (("movie", "text"), ("bias", "number"), ("ratings", "number")),
            [(title(row), f"{row['bias']:+.2f}", f"{row['n_ratings']:,}") for row in movies.to_dicts()],
        )

    return section(
        "Most and least loved",
        "By the movie’s bias: what is left of its ratings when the taste of those who rated it is taken off. Among the tenth of the movies with most ratings.",
        grid([f"<h3>Most loved</h3>{rows(facts.loved)}", f"<h3>Least loved</h3>{rows(facts.unloved)}"]),
    )
