"""Of the page: the lists, what changed in them, and some users with theirs."""

from collections.abc import Sequence

from cfjobs.report import charts
from cfjobs.report.charts import Chart
from cfjobs.report.facts import Facts, Reader
from cfjobs.report.html import card, figure, from_json, grid, section, table, text, title
from cfjobs.tables.runs import FIRST
from cfjobs.tables.schema import OF_PUBLISHED


def lists(facts: Facts) -> str:
    """What the lists are like: how alike, how popular, how different from the last night."""
    v = facts.variety
    users = max(v["lists"], 1)
    counted = [
        ("movies in somebody’s first ten", f"{v['listed_movies']:,.0f} of {v['movies']:,.0f}", ""),
        ("users", f"{v['lists']:,.0f}", ""),
        ("different lists", f"{v['distinct']:,.0f}", ""),
        ("users whose list somebody else has too", f"{v['repeated_share']:.1%}", ""),
        ("users with the most repeated list", f"{v['most_copies']:,.0f}", ""),
        ("users who get the popularity list", f"{v['popular_share']:.1%}", ""),
    ]
    said = [(what, tonight, "", popular) for what, tonight, popular in counted]
    for name, what, form in (
        ("coverage", "movies that could be listed, and are", "{:.1%}"),
        ("novelty_at_10", "novelty of a listed movie, bits", "{:.2f}"),
        ("popular_share_at_10", "places for popular movies", "{:.1%}"),
        ("stars_at_10", "predicted stars of a place", "{:.2f}"),
    ):
        published = dict(
            facts.metrics.filter(metric=name + OF_PUBLISHED, band="all").select("metric", "value").rows()
        )
        for row in facts.metrics.filter(metric=name, band="all").to_dicts():
            tonight = published.get(name + OF_PUBLISHED)
            said.append(
                (
                    what,
                    "" if tonight is None else form.format(tonight),
                    form.format(row["value"]),
                    form.format(row["baseline"]),
                )
            )
    most = table(
        (("movie", "text"), ("lists", "number"), ("of users", "number")),
        [
            (title(row), f"{row['lists']:,}", f"{row['lists'] / users:.1%}")
            for row in facts.most_listed.to_dicts()
        ],
    )
    cards = [
        card(
            _popularity_curve(facts),
            "Movies sorted by how often they are listed (or rated): what share of the places the first of them take.",
        ),
        _changed(facts),
        f"<h3>Recommended most</h3>{most}",
        f"<h3>Variety</h3>{table((('what', 'text'), ('published', 'number'), ('measured', 'number'), ('popularity list', 'number')), said)}",
    ]
    about = f"{_order(facts)} Figures are over the first ten places of every list."
    return section("Who gets what", about, grid(cards))


def _order(facts: Facts) -> str:
    """What the night's lists answer, and what orders them."""
    config = from_json(facts.run, "config")
    asked = {
        "next": "what the user chooses next",
        "any": "what else belongs in the user’s profile, whatever the order of their ratings",
    }.get(config.get("question"), "what the user chooses")
    if config.get("rank_by") == "rating":
        return "Ordered by predicted stars."
    weight = from_json(facts.run, "metrics").get("stars_weight")
    stars = f", and {weight:g} × predicted stars: what they would like" if weight else ""
    return f"Ordered by affinity: {asked}{stars}."


def _popularity_curve(facts: Facts) -> str:
    chart = Chart(
        "Popularity curve",
        "share of the movies, most listed first",
        "share of the places",
        (0, 1),
        (0, 1),
        x_ticks=_percents(),
        y_ticks=_percents(),
    )
    chart.line([(0, 0), (1, 1)], kind="ideal")
    for values, kind in ((facts.ratings_of_movies, "second"), (facts.places, "main")):
        chart.line(_cumulative(values), kind=kind)
    return figure("Popularity curve", chart, key=(("main", "places in lists"), ("second", "ratings")))


def _cumulative(values: Sequence[int], *, points: int = 200) -> list[tuple[float, float]]:
    total = sum(values) or 1
    running, found, every = 0, [(0.0, 0.0)], max(1, len(values) // points)
    for number, value in enumerate(values, 1):
        running += value
        if number % every == 0 or number == len(values) or number <= 50:
            found.append((number / len(values), running / total))
    return found


def _percents() -> list[tuple[float, str]]:
    return [(part / 5, f"{part * 20}%") for part in range(6)]


def _changed(facts: Facts) -> str:
    if facts.changed is None:
        return "<h3>Changes since last night</h3><p>This is the first night.</p>"
    found = facts.changed
    users = max(found["users"], 1)
    shares = [number / users for number in found["histogram"]]
    chart = Chart(
        "New movies in the first ten",
        "new movies among the first ten",
        "share of the users",
        (-0.7, FIRST + 0.7),
        charts.room(shares, foot=0),
        x_ticks=[(n, str(n)) for n in range(FIRST + 1)],
        y_ticks=[(at, f"{at:.0%}") for at, _ in charts.ticks(*charts.room(shares, foot=0))],
    )
    for number, share in enumerate(shares):
        chart.bar(
            number,
            share,
            width=0.8,
            kind="main",
            tip=f"{number} new: {found['histogram'][number]:,} users, {share:.1%}",
        )
    note = f"{found['changed']:,} of {found['users']:,} lists ({found['changed'] / users:.1%}) have a new movie among their first ten since {found['since']}, {found['mean_new']:.1f} on average."
    return card(figure("Changes since last night", chart), note)


def readers(readers: Sequence[Reader]) -> str:
    """Some users: what they liked, and their first recommendations."""
    if not readers:
        return ""
    return section(
        "A few users",
        "One from the middle of each band of activity: what they rated last, and what they are shown.",
        "".join(_reader(reader) for reader in readers),
    )


def _reader(reader: Reader) -> str:
    rated = table(
        (("rated last", "text"), ("rating", "number"), ("when", "number")),
        [(title(row), f"{row['rating']:g}", f"{row['timestamp']:%Y-%m-%d}") for row in reader.history],
    )
    shown = table(
        (("shown", "text"), ("predicted", "number")),
        [(f"{row['rank']}. {title(row)}", f"{row['predicted_rating']:.1f}") for row in reader.list],
    )
    about = f"{reader.band}, {reader.n_ratings:,} ratings"
    empty = "<p class='note'>Nothing to show.</p>"
    return (
        f'<div class="card reader"><h3>User {text(reader.user_id)} <span>· {text(about)}</span></h3>'
        f'<div class="grid"><div>{rated if reader.history else empty}</div><div>{shown if reader.list else empty}</div></div></div>'
    )
