"""The tables the night publishes: names, columns, types and meanings, declared once.

Ids keep the type they came with (int64 or string), so a schema is made for a night's id types.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cfjobs.tables import recipes

if TYPE_CHECKING:
    import pyarrow as pa

RUN_DATE = "run_date"


@dataclass(frozen=True)
class Column:
    """One column of a published table; kind: the name of an Arrow type,
    or 'user' or 'movie' for an outside id."""

    name: str
    kind: str
    meaning: str
    example: str
    unit: str = ""
    nullable: bool = False


@dataclass(frozen=True)
class Table:
    """One published table: a Delta table under the output URI, partitioned by `run_date`.

    guarantees: what holds of every row, for readers to build on. changes: how tonight's rows differ from
    last night's, and why. added: it came later, so that nights of before have none. described: columns of
    the input follow these.
    """

    name: str
    meaning: str
    columns: tuple[Column, ...]
    guarantees: tuple[str, ...]
    changes: str
    added: bool = False
    described: bool = False

    def schema(self, *, user_type: "pa.DataType", movie_type: "pa.DataType") -> "pa.Schema":
        """The Arrow schema for a night whose ids have these types."""
        import pyarrow as pa  # here: looking at what is published does without it

        kinds = _arrow_types() | {"user": user_type, "movie": movie_type}
        return pa.schema([pa.field(c.name, kinds[c.kind], nullable=c.nullable) for c in self.columns])


def _arrow_types() -> "dict[str, pa.DataType]":
    """The Arrow type of each kind of column."""
    import pyarrow as pa

    return {
        "bool": pa.bool_(),
        "date32": pa.date32(),
        "int16": pa.int16(),
        "int64": pa.int64(),
        "float32": pa.float32(),
        "float64": pa.float64(),
        "string": pa.string(),
        "timestamp": pa.timestamp("us", tz="UTC"),
        "vector": pa.list_(pa.field("element", pa.float32(), nullable=False)),
    }


_DATE = Column(RUN_DATE, "date32", "The night the row belongs to; the partition.", "2026-03-01")
_STARS = "stars, the scale of the ratings"
_FIRST_TIME = "When the first of them was given; null where ratings have no times."
_TEXT_ID = "as text"
_NONE_GIVEN = "null where `feedback` is implicit"

TOP_N = Table(
    "top_n",
    "Each user's list: the movies to show, best first.",
    (
        _DATE,
        Column("user_id", "user", "Whose list it is; the outside id, as in the ratings.", "42"),
        Column("rank", "int16", "Place in the list.", "1", unit="1 is best"),
        Column("movie_id", "movie", "The movie to show.", "318"),
        Column(
            "score",
            "float32",
            "What orders the list; compare it within one user only. In a popularity list the number of ratings, in the days of `popular_days` where it is set.",
            "2.913",
        ),
        Column(
            "predicted_rating",
            "float32",
            f"What the user would rate the movie; {_NONE_GIVEN}.",
            "4.41",
            unit=_STARS,
            nullable=True,
        ),
        Column(
            "source", "string", "`model`, or `popular` for a user whom the model cannot rank for.", "model"
        ),
        Column(
            "predicted_rating_spread",
            "float32",
            "Standard deviation of what the members of an ensemble predict alone: how sure `predicted_rating` is. Null with `ensemble` = 1.",
            "0.21",
            unit=_STARS,
            nullable=True,
        ),
        Column(
            "because",
            "movie",
            "Of the movies that the user liked (rated no lower than their own mean), the one that speaks most for this one: the largest part of the score, as `cfjobs explain` takes it apart. Null beyond rank 10, where none speaks for it, in popularity lists and in lists by rating alone.",
            "260",
            nullable=True,
        ),
        Column(
            "rule",
            "string",
            "Which rule of the shop put the movie in its place: `pinned`, `new` for one of `new_places`, or `held_back` for one that `max_per` kept from a better one. Null where it stands by its score.",
            "pinned",
            nullable=True,
        ),
    ),
    (
        "One list for every user of the ratings and users tables.",
        "Ranks of a list are 1, 2, ... without gaps, at most `top_n` of them; among the rows of a list whose `rule` is null, which without rules are all, `score` never increases with rank.",
        "Where rules are set: a pinned movie stands at its place in every list of a user who may get it, a list shorter than that ends with it; of the first `rule_places`, those with a null `rule` or `new` keep every `max_per`, pinned ones counted.",
        "No movie twice in a list, and none that the user has rated.",
        "No NaN, and no null but in `because`, `predicted_rating_spread` and `rule`; `predicted_rating` lies within the range of the ratings, and is null in every row of a night of implicit feedback (`feedback` in `runs.config`), whose lists go by affinity alone.",
        "`because` is a movie that the user has rated; neither shards, batches nor threads change it.",
    ),
    "Every list is made anew each night: new ratings move it, and the seen movies leave it. The same ratings, "
    "configuration and seed give the same lists, with `steady` after the same last night.",
)

MOVIES = Table(
    "movies",
    "Each movie: how it was rated, and where it stands in the lists.",
    (
        _DATE,
        Column("movie_id", "movie", "The movie.", "318"),
        Column("title", "string", "Its title in the movies table.", "The Long Road (1994)", nullable=True),
        Column("n_ratings", "int64", "Its ratings of this night, held-out ones included.", "311"),
        Column("mean_rating", "float64", "Their mean.", "4.02", unit=_STARS, nullable=True),
        Column("first_rated_at", "timestamp", _FIRST_TIME, "2004-11-02 09:00:00Z", nullable=True),
        Column(
            "last_rated_at", "timestamp", "When it was last rated.", "2026-02-27 20:15:00Z", nullable=True
        ),
        Column("n_top_10", "int64", "Lists that have it among their first 10 places.", "57"),
        Column("n_top_100", "int64", "Lists that have it among their first 100 places.", "204"),
        Column("mean_rank", "float64", "Its mean place, over the lists that have it.", "31.5", nullable=True),
        Column(
            "reach",
            "float64",
            "Of the users who have not rated it, the share who have it in their list; null where all have.",
            "0.33",
            unit="0 to 1",
            nullable=True,
        ),
        Column(
            "reach_change",
            "float64",
            "`reach` less last night's; null for a movie that last night's table does not have.",
            "-0.02",
            nullable=True,
        ),
        Column(
            "listable",
            "bool",
            "Whether it could be listed tonight, by all rules together: `min_ratings`, allow, deny, and the days on which it is available. Null in nights of versions that did not tell.",
            "true",
            nullable=True,
        ),
    ),
    (
        "One row for every movie with a rating, or with side features that the model uses.",
        "Then the columns of the input movies table, all that there have ever been: text, numbers, truth values, "
        "dates, times and lists of these keep their type, what else there is becomes text. A name that is taken is "
        "published as `input_NAME`; signs that Delta refuses in a name become `_`.",
        "Every movie of tonight's `top_n` is `listable`.",
        "`n_top_10` adds up to the places up to rank 10 in `top_n`, `n_top_100` to those up to 100; "
        "`n_ratings` to `runs.counts` kept.",
    ),
    "Counts follow the ratings and the lists of the night; `reach_change` says who gained and who lost.",
    added=True,
    described=True,
)

USERS = Table(
    "users",
    "Each user: what they rated, and what their list is like.",
    (
        _DATE,
        Column("user_id", "user", "The user.", "42"),
        Column("n_ratings", "int64", "Their ratings of this night, held-out ones included.", "109"),
        Column("mean_rating", "float64", "Their mean.", "3.71", unit=_STARS, nullable=True),
        Column("first_rated_at", "timestamp", _FIRST_TIME, "2019-05-11 18:30:00Z", nullable=True),
        Column("last_rated_at", "timestamp", "When they last rated.", "2026-02-27 20:15:00Z", nullable=True),
        Column(
            "band",
            "string",
            "Activity, a third of the users with ratings each: `light`, `medium`, `heavy`; null without ratings.",
            "medium",
            nullable=True,
        ),
        Column(
            "source",
            "string",
            "Where their list is from, as in `top_n`; null without a list, where they have rated all that could be listed.",
            "model",
            nullable=True,
        ),
        Column("n_listed", "int64", "Places of their list.", "100"),
        Column(
            "n_new_in_ten",
            "int64",
            "Movies among their first ten that were not among last night's first ten; null without a list on both nights.",
            "2",
            nullable=True,
        ),
        Column(
            "ratings_changed",
            "bool",
            "Whether their own ratings are others than last night's; null for a user who is not in last night's table.",
            "false",
            nullable=True,
        ),
        Column(
            "novelty",
            "float64",
            "Mean self-information of their first ten: 0 is rated by everybody, 10 by one in 1,024.",
            "3.1",
            unit="bits",
            nullable=True,
        ),
        Column(
            "diversity",
            "float64",
            "1 less the mean cosine between the embeddings of any two of their first ten; null for fewer than two.",
            "0.64",
            unit="0 is all alike",
            nullable=True,
        ),
        Column(
            "genre_distance",
            "float64",
            "How much of the mix of genres among their first ten would have to change to be the mix of what they rated; null without genres.",
            "0.38",
            unit="0 to 1",
            nullable=True,
        ),
        Column(
            "ratings_fingerprint",
            "int64",
            "A number made of their ratings, movies and times, whatever the order: another one when one of them changes.",
            "-4713093201",
        ),
    ),
    (
        "One row for every user of the ratings and users tables.",
        "`n_new_in_ten` over the places up to rank 10 of the same users is `churn_published` of `metrics`.",
        "The means of `novelty`, `diversity` and `genre_distance` over users with ratings are `novelty_at_10_published`, "
        "`diversity_at_10_published` and `genre_distance_at_10_published`.",
    ),
    "A user whose ratings did not change keeps most of the list; `n_new_in_ten` says how much.",
    added=True,
)

MOVIE_EMBEDDINGS = Table(
    "movie_embeddings",
    "What the model has learnt about each movie, for maps, clusters and searches of your own.",
    (
        _DATE,
        Column("movie_id", "movie", "The movie.", "318"),
        Column("title", "string", "Its title in the movies table.", "The Long Road (1994)", nullable=True),
        Column("n_ratings", "int64", "Ratings of the movie that the model was trained on.", "311"),
        Column(
            "bias",
            "float32",
            f"How much the movie is rated above what its users and its embedding explain: the lesson's movie bias; {_NONE_GIVEN}.",
            "0.62",
            unit="of the rating network's sum before the sigmoid; 0 is typical",
            nullable=True,
        ),
        Column(
            "vector",
            "vector",
            "The movie's embedding in the rating network, or where `feedback` is implicit in the ranking network; angles between movies of one night mean something, single numbers do not.",
            "[0.11, -0.42, ...]",
        ),
        Column("pc1", "float32", "First principal component of the vectors.", "-0.83"),
        Column("pc2", "float32", "Second principal component.", "0.27"),
    ),
    (
        "One row for every movie with at least one training rating, or with side features that the model uses; all vectors of a night have one length.",
        "Components are those of the vectors weighted by the root of n_ratings, and centred; each is turned so that "
        "its mean, weighted by n_ratings, is not negative.",
    ),
    "Embeddings are learnt anew each night and are turned at random against last night's: compare movies within a "
    "night, never a vector with the same movie's vector of another night.",
)

SIMILAR_MOVIES = Table(
    "similar_movies",
    "The movies most like each movie, by the angle between their embeddings.",
    (
        _DATE,
        Column("movie_id", "movie", "The movie.", "318"),
        Column("rank", "int16", "Place among the similar ones.", "1", unit="1 is most similar"),
        Column("similar_movie_id", "movie", "A movie like it.", "527"),
        Column("cosine", "float32", "Cosine of the angle between the two vectors.", "0.87", unit="-1 to 1"),
    ),
    (
        "Exact: no movie that is left out is nearer than one that is listed.",
        "Ranks are 1, 2, ... without gaps, at most 50; cosine never increases with rank; no movie is similar to itself.",
        "A movie with fewer training ratings than `similar_min_ratings` is similar to none and has no rows: its vector is "
        "mostly chance.",
        "What is alike, not what can be had: it also has movies that could not be listed that night, by allow, deny, "
        "the days of availability or `min_ratings`. `movies.listable` says which could; join it for what is shown.",
    ),
    "Follows the embeddings of the night.",
)

AUDIENCE = Table(
    "audience",
    "For each movie the users who fit it best: whom to tell of it. Empty unless `audience` asks for so many of them.",
    (
        _DATE,
        Column("movie_id", "movie", "The movie.", "318"),
        Column("rank", "int16", "Place among the users.", "1", unit="1 is best"),
        Column("user_id", "user", "A user who has not rated it.", "42"),
        Column(
            "score",
            "float32",
            "The score that orders the users: the one of `top_n`. Each user's scores are right up to a constant of their own, so it says who leans to the movie most, not how likely they are to choose it.",
            "2.913",
        ),
    ),
    (
        "Exact: no user who is left out and may have the movie in their list has a higher score.",
        "Ranks are 1, 2, ... without gaps, at most `audience`; score never increases with rank.",
        "Only movies that may be listed, and only users with ratings; none who has rated the movie.",
    ),
    "Follows the model and the ratings of the night.",
    added=True,
)

TOP_N_BY_VALUE = Table(
    "top_n_by_value",
    "Each user's best movies of each value of a column, such as of each genre. Empty unless `lists_per` names columns.",
    (
        _DATE,
        Column("user_id", "user", "Whose list it is; the outside id, as in the ratings.", "42"),
        Column(
            "column",
            "string",
            "The column of the movies table, as `lists_per` names it.",
            "genres",
        ),
        Column(
            "value",
            "string",
            f"A value of it, {_TEXT_ID}; every movie of the list has it.",
            "Comedy",
        ),
        Column("rank", "int16", "Place in the list.", "1", unit="1 is best"),
        Column("movie_id", "movie", "The movie to show.", "318"),
        Column(
            "score",
            "float32",
            "The score that orders the list: the one of `top_n`, so that the lists of one user can be merged by it.",
            "2.913",
        ),
        Column(
            "predicted_rating",
            "float32",
            f"What the user would rate the movie; {_NONE_GIVEN}.",
            "4.41",
            unit=_STARS,
            nullable=True,
        ),
        Column(
            "source", "string", "`model`, or `popular` for a user whom the model cannot rank for.", "model"
        ),
    ),
    (
        "Exact: of the movies that have the value, may be listed and are not seen, none that is left out has a "
        "higher score than one that is listed.",
        "What may be listed is as in `top_n`: none that the user has rated or that is excluded for them, none that "
        "allow, deny, the days of availability, `min_ratings` or `min_score` keep out. That no list begins with a "
        "movie which its user is expected to dislike is a rule of `top_n` alone.",
        "One list for each user and value that has a movie for them; a value of no listable movie has no list.",
        "Ranks of a list are 1, 2, ... without gaps, at most as many as `lists_per` says of its column; `score` never "
        "increases with rank; no movie twice in a list.",
        "Rows are sorted by user, column, value and rank within a file, and a user's rows are in one file.",
    ),
    "Follows the model and the ratings of the night, as `top_n` does.",
    added=True,
)

HOLDOUT_PREDICTIONS = Table(
    "holdout_predictions",
    "The held-out ratings beside what the model, which had not seen them, predicted.",
    (
        _DATE,
        Column("user_id", "user", "Who rated.", "42"),
        Column("movie_id", "movie", "What was rated.", "318"),
        Column("rating", "float32", f"The rating given; {_NONE_GIVEN}.", "4.5", unit=_STARS, nullable=True),
        Column(
            "predicted_rating",
            "float32",
            f"The rating predicted; {_NONE_GIVEN}.",
            "4.12",
            unit=_STARS,
            nullable=True,
        ),
        Column(
            "residual",
            "float32",
            f"rating - predicted_rating: above 0, better liked than expected; {_NONE_GIVEN}.",
            "0.38",
            unit=_STARS,
            nullable=True,
        ),
        Column(
            "rated_at",
            "timestamp",
            "When the rating was given; null where the ratings have no times.",
            "2026-02-27 20:15:00Z",
            nullable=True,
        ),
        Column("user_ratings", "int64", "Ratings of the user that the model was trained on.", "87"),
    ),
    (
        "One row for every held-out rating; none when holdout = none or when an existing model scores.",
        "The root of the mean squared residual is `rmse` of `metrics`.",
        "The predictions are those of the network that was measured; with refit, the lists come from one trained on "
        "these ratings too.",
    ),
    "The holdout moves on with the ratings: each user's latest are held out.",
)

METRICS = Table(
    "metrics",
    "How good the night's model is on ratings it was not trained on, beside a simple rule.",
    (
        _DATE,
        Column("metric", "string", "Name of the metric; see below.", "ndcg_at_10"),
        Column(
            "band",
            "string",
            "`all` users, or a third of the measured users by training ratings: `light`, `medium`, `heavy`.",
            "all",
        ),
        Column("value", "float64", "Its value.", "0.1162"),
        Column(
            "low",
            "float64",
            "Lower end of the 95 % bootstrap interval over users; null for coverage and gini, which are no means over users, and for the published lists.",
            "0.1031",
            nullable=True,
        ),
        Column("high", "float64", "Upper end.", "0.1287", nullable=True),
        Column(
            "baseline",
            "float64",
            "The same metric of the baseline: for `rmse` and `mae` the global mean plus damped user and movie means, for `ndcg_at_10_against_...` the rule that it names, for figures of the published lists that of the measured ones, for the others the popularity list.",
            "0.0664",
        ),
        Column("users", "int64", "Users measured.", "660"),
        Column("min_ratings", "int64", "Fewest training ratings of a user of the band.", "16"),
        Column("max_ratings", "int64", "Most training ratings of a user of the band.", "1912"),
        Column(
            "last_night",
            "float64",
            "The same metric of the last published night before; null where it was not measured.",
            "0.1149",
            nullable=True,
        ),
    ),
    (
        "One row for a metric and a band; none when holdout = none or when an existing model scores.",
        "Implicit feedback has no rows of `rmse`, `mae`, `stars_at_10` and `disliked_share_at_10`; in `runs.metrics` they are null.",
        "Neither the batch size nor the device changes a value; the intervals come from the night's seed.",
    ),
    "Moves with the ratings held out; the interval says how much of a move is chance.",
)

REJECTED = Table(
    "rejected_ratings",
    "Input rows that were set aside, each with its reason.",
    (
        _DATE,
        Column("file", "string", "The input file.", "s3://lake/ratings/part-3.parquet"),
        Column("row", "int64", "Row number in the file.", "1207", unit="from 0"),
        Column("reason", "string", "Why the row was set aside.", "rating is missing"),
        Column("user_id", "string", "The row's user.", "42", unit=_TEXT_ID, nullable=True),
        Column("movie_id", "string", "The row's movie.", "318", unit=_TEXT_ID, nullable=True),
        Column(
            "rating",
            "string",
            "The row's rating; of implicit feedback its weight, or the event that has none.",
            "NaN",
            unit=_TEXT_ID,
            nullable=True,
        ),
    ),
    (
        "In `runs.counts`, read = kept + superseded + rejected, and rejected is the number of rows here. Of implicit feedback the superseded rows are added up in the kept one, and rows that weigh 0 are `left_out`, as those of a later date are `later`: in neither are they read.",
    ),
    "A row stays here every night until the export is mended.",
)

RUNS = Table(
    "runs",
    "One row a night, committed last: what went in, how it went, and the versions of the other tables.",
    (
        _DATE,
        Column(
            "run_id",
            "string",
            "Identifier of the run that published the night.",
            "2026-03-01-4be1c09d77aa",
        ),
        Column("started_at", "timestamp", "When the run started.", "2026-03-02 01:30:00Z"),
        Column("finished_at", "timestamp", "When the run published.", "2026-03-02 01:52:11Z"),
        Column(
            "model_uri",
            "string",
            "Folder of the model that made the lists.",
            "s3://lake/out/models/2026-03-01-4be1c09d77aa",
        ),
        Column(
            "table_versions",
            "string",
            "JSON object of integers: Delta version of each table of this night by its name, `runs` included; a table that came later is missing from earlier nights.",
            '{"top_n": 7}',
        ),
        Column(
            "counts",
            "string",
            "JSON object of integers: `read`, `kept`, `superseded`, `rejected` ratings; `users` and `movies` with ratings, `cold_users` without; `unrated_movies_listable`, `unrated_movies_left_out`; `unavailable_movies` of the movies table, where it says when they are available; `boosted_movies` and `pinned_movies` of the night's, where there are any; `lists` and their `rows`.",
            '{"read": 100004}',
        ),
        Column(
            "metrics",
            "string",
            "JSON object of numbers or null: each metric of `metrics` over all users by its name; its baseline as `NAME_popular` or, for rmse and mae, `NAME_bias_only`; `NAME_published` of the published lists, churn included; `ndcg_at_10_high` and `users_measured`; `ndcg_at_10_RULE` of each further rule, beside `ndcg_at_10_sampled`, the night's own on the same users; `scale_low`, `scale_high`, the ends of the rating scale; `stars_weight`.",
            '{"rmse": 0.866}',
        ),
        Column(
            "seconds",
            "string",
            "JSON object of seconds: `prepare`, `split`, `train`, `evaluate`, `refit`, `score`, `check`, `publish`, those that the night had, and `window`: from the first commit to this row, while the latest versions of two tables may be of two nights.",
            '{"train": 11.2}',
        ),
        Column(
            "losses",
            "string",
            "JSON list: [epoch, training loss, holdout loss] of the measured training.",
            "[[1, 0.91, 0.83]]",
            unit="stars squared",
        ),
        Column(
            "config",
            "string",
            "JSON object: every setting of `cfjobs config` by its name; `question`, `training` and `feedback` (`ratings` or `implicit`) as they were decided, `rank_by` affinity where it is implicit, and `timestamp_column` null where the ratings have no times.",
            '{"model": "dot_bias"}',
        ),
        Column(
            "inputs",
            "string",
            "JSON list of objects: `what` a file holds (ratings, movies, users, allow, deny, exclude), its `uri`, `size` in bytes, `etag` in a store, and the table of a version that named it.",
            '[{"what": "ratings", "uri": "s3://lake/ratings/1.parquet"}]',
        ),
        Column(
            "versions",
            "string",
            "JSON object of strings: versions of `cfjobs`, `python`, `torch`, `polars`, `pyarrow`, `deltalake`, `numpy`.",
            '{"torch": "2.13.0"}',
        ),
        Column(
            "git_commit",
            "string",
            "Commit of the code, where it runs from a checkout or CFJOBS_GIT_COMMIT names it.",
            "0f3a9c1",
            nullable=True,
        ),
        Column(
            "gate",
            "string",
            "`passed`, `no holdout`, `existing model`, or `overridden: ` and what the gate had said.",
            "passed",
        ),
        Column(
            "report_uri",
            "string",
            "The night's page.",
            "s3://lake/out/reports/run_date=2026-03-01/index.html",
        ),
    ),
    (
        "One row a date. A date without a row has not been published, whatever lies in the other tables.",
        "Reading each table at the version named here gives tables of one night.",
    ),
    "A date that is run again has its row replaced; earlier versions of the table keep the former one.",
)

ROLLBACKS = Table(
    "rollbacks",
    "Who brought the tables back to a former night, and why; absent until somebody does.",
    (
        Column(RUN_DATE, "date32", "The night gone back to; the partition.", "2026-03-01"),
        Column("run_id", "string", "The run that had published it.", "2026-03-01-3f2a90b1c4d5"),
        Column("at", "timestamp", "When.", "2026-03-02 08:11:09"),
        Column("who", "string", "Who asked.", "ada"),
        Column("why", "string", "The reason given, or nothing.", "half the ratings were missing"),
        Column("before", "string", "JSON object: version of each table before.", '{"top_n": 6}'),
        Column(
            "restored",
            "string",
            "JSON object: version of each table whose content it has again.",
            '{"top_n": 5}',
        ),
    ),
    ("One row for each rollback, written before the tables go back; rows are only ever added.",),
    "It does not change with the nights, only when somebody goes back.",
)

OF_PUBLISHED = "_published"
"""Ends the name of a metric that was measured on the published lists."""

PUBLISHED: tuple[Table, ...] = (
    TOP_N,
    MOVIES,
    USERS,
    MOVIE_EMBEDDINGS,
    SIMILAR_MOVIES,
    AUDIENCE,
    TOP_N_BY_VALUE,
    HOLDOUT_PREDICTIONS,
    METRICS,
    REJECTED,
    RUNS,
)

PINNED, NEW, HELD_BACK = "pinned", "new", "held_back"
"""What `top_n.rule` says."""
SOURCE_MODEL = "model"
SOURCE_POPULAR = "popular"


def document() -> str:
    """The data dictionary of the published tables, as Markdown; `docs/tables.md` is this text."""
    return "\n".join(
        [
            _INTRODUCTION,
            *(_section(table) for table in (*PUBLISHED, ROLLBACKS)),
            recipes.METRICS,
            recipes.RECIPES,
        ]
    )


_INTRODUCTION = """# The published tables

Delta tables under the output URI, partitioned by `run_date`. A date is published in one atomic commit a table:
a reader sees the night before or this one, never a part. Running a date again replaces that date and nothing else.
`runs` is committed last and names the version of every other table: take the versions from there to read several
tables of one night. Ids keep the type they have in the ratings, int64 or string; types are Arrow's.

What later versions do with these tables, within a major version: tables, columns, metrics and keys of JSON are
added. None is renamed, gets another type, loses its meaning or is taken away, and a column that is never null stays
so. So name the columns that you read, take unknown ones as no concern of yours, and expect null in a column that
nights of before do not have. A night is published over an output of any earlier version, without a step between.

[Recipes](#recipes) to copy are at the end. This page is printed by `python -m cfjobs.tables`.
"""


def _section(table: Table) -> str:
    rows = [f"| `{c.name}` | {_kind(c)} | {c.meaning} | {c.unit} | `{c.example}` |" for c in table.columns]
    return "\n".join(
        [
            f"## {table.name}\n",
            f"{table.meaning}\n",
            "| column | type | meaning | unit | example |",
            "|---|---|---|---|---|",
            *rows,
            "",
            "Guarantees:\n",
            *(f"- {guarantee}" for guarantee in table.guarantees),
            f"\nFrom night to night: {table.changes}\n",
        ]
    )


def _kind(column: Column) -> str:
    name = f"{column.kind} id" if column.kind in {"user", "movie"} else str(_arrow_types()[column.kind])
    name = name.replace("<element: float not null>", "&lt;float&gt;")
    return f"{name}, may be null" if column.nullable else name
