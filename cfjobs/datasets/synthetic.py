"""Data sets made up on the spot, shaped like MovieLens, with a planted structure that a good model can find.

    movies  genres, year, quality, popularity (a power law)
    users   a taste for each genre, a bias, an activity (log-normal), sessions in time
    picks   a user picks a genre by taste, then one of its released movies by popularity, never one twice
    stars   mean + user bias + movie quality + taste for the movie's genres + noise, in half stars

Taste drives both what is picked and how it is liked, so both lists and stars can be learned. No matrix of
all users x all movies is ever made, so that 25 million ratings fit a small machine.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cfjobs.errors import InputError

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

GENRES: dict[str, tuple[float, tuple[float, ...]]] = {
    "Action": (4, (2, 0, 0, 0)),
    "Adventure": (3, (2, 1, 0, 0)),
    "Animation": (2, (0, 2, 0, 1)),
    "Children": (2, (0, 2, 0, 0)),
    "Comedy": (6, (0, 0, 0, 2)),
    "Crime": (3, (1, 0, 2, 0)),
    "Documentary": (2, (-2, 0, 0, -1)),
    "Drama": (8, (-2, 0, 1, -1)),
    "Fantasy": (2, (1, 2, 0, 0)),
    "Film-Noir": (1, (-1, -1, 2, 0)),
    "Horror": (3, (0, -1, 2, 1)),
    "Musical": (2, (-1, 1, 0, 2)),
    "Mystery": (2, (0, 0, 2, 0)),
    "Romance": (4, (-2, 0, 0, 1)),
    "Sci-Fi": (3, (2, 0, 1, 0)),
    "Thriller": (4, (1, -1, 2, 0)),
    "War": (1, (1, -1, 0, -2)),
    "Western": (1, (1, 0, 0, -2)),
}
"""Genres: how common each is in relation to the others, and how much it has of what tastes differ about:
spectacle, fairy tale, darkness, laughter. Who likes one genre therefore tends to like its neighbours."""

_FRACTION = np.array([fraction for fraction, _ in GENRES.values()])
_FLAVOUR_GF = np.array([flavour for _, flavour in GENRES.values()], dtype=np.float32)
_FLAVOUR_GF /= np.linalg.norm(_FLAVOUR_GF, axis=1, keepdims=True)

MIN_ACTIVITY = 20  # ratings of the least active user, as in MovieLens, where the average leaves room for it
OPENED = int(datetime(1996, 1, 1, tzinfo=UTC).timestamp())
CLOSED = int(datetime(2016, 1, 1, tzinfo=UTC).timestamp())
YEAR = 365.25 * 86_400  # seconds

_CHUNK_RATINGS = 1 << 20  # ratings made at once: bounds the memory
_CHUNK_PAIRS = 1 << 22  # user x movie pairs scored at once, for users who rate much of the catalogue
_SESSION_RATINGS = 40  # ratings in one session of a user, on average
_SESSION_SECONDS = 5400  # length of a session
_BLOCK = 1 << 16  # ratings whose expected stars are computed at once: stays in the cache
_DENSE_FRACTION = 0.1  # users who rate this fraction of what is out get their picks from all its odds
_ROUNDS = 24  # of drawing again for repeats, before a user is taken for one of these

# How strong each part of the structure is; stars unless noted
_MEAN = 3.2
_USER_STD = 0.35
_QUALITY_STD = 0.35
_TASTE_STARS = 0.75  # per standard deviation of taste
_NOISE_STD = 0.50
_TASTE_PICKS = 1.5  # how sharply taste decides what is picked: log-odds per standard deviation of taste
_POWER = 0.9  # the movie of popularity rank r is picked in proportion to r ** -_POWER


@dataclass(frozen=True)
class Sample:
    """A data set in the form of the input tables.

    ratings: user_id int64, movie_id int64, rating float32 in half stars, timestamp datetime[us], sorted by
    user and time. movies: movie_id int64, title string, genres string, sorted by id.
    """

    ratings: pl.DataFrame
    movies: pl.DataFrame


@dataclass(frozen=True)
class Truth:
    """What the ratings were made from: the best any model can know. U users, M movies, G genres, by id.

    user_bias [U] and quality [M] in stars; taste_UG in standard deviations; traits_MG: rows of length 1;
    cumulative_GM: over movies by release, with a 0 before, how often a genre's picks go to them;
    n_released [U]: movies that are out when the user leaves.
    """

    user_bias: Floats
    taste_UG: Floats
    quality: Floats
    traits_MG: Floats
    cumulative_GM: NDArray[np.float64]
    n_released: Ints

    def expected(self, user_idx: Ints, movie_idx: Ints) -> Floats:
        """Stars [R] before noise, rounding and clipping, for pairs of rows [R]."""
        stars: Floats = np.float32(_MEAN) + self.user_bias[user_idx] + self.quality[movie_idx]
        for start in range(0, stars.size, _BLOCK):
            rows = slice(start, start + _BLOCK)
            taste, traits = self.taste_UG[user_idx[rows]], self.traits_MG[movie_idx[rows]]
            stars[rows] += _TASTE_STARS * np.einsum("rg,rg->r", taste, traits)
        return stars


@dataclass(frozen=True)
class Generated(Sample):
    """A sample and the truth behind it; row i of the truth is the i-th user or movie by id."""

    truth: Truth


def generate(*, n_users: int, n_movies: int, n_ratings: int, seed: int) -> Generated:
    """A data set of exactly n_ratings ratings, the same for the same arguments.

    Every user rates at least min(20, n_ratings // n_users, n_movies) movies; no pair is rated twice; nobody
    rates a movie before its year. A movie may remain without a rating. User ids are 1..n_users, movie ids
    have gaps.
    Raises InputError for sizes that cannot be.
    """
    _check_sizes(n_users, n_movies, n_ratings, seed)
    rng = np.random.default_rng(seed)
    movies = _movies(n_movies, rng)
    users = _users(n_users, rng)
    activity = _activity(n_users, n_movies, n_ratings, rng)
    n_released = np.searchsorted(movies.released, users.left, side="right")
    truth = Truth(
        user_bias=users.bias,
        taste_UG=users.taste_UG,
        quality=movies.quality,
        traits_MG=movies.traits_MG,
        cumulative_GM=movies.cumulative_GM,
        n_released=n_released,
    )
    parts = []
    for chosen in _user_chunks(activity):
        chunk = _chunk(chosen, activity[chosen], users, movies=movies, rng=rng)
        parts.append(_ratings(chunk, movies, truth, rng))
    ratings = pl.concat(parts, rechunk=True)
    return Generated(ratings, movies.frame, truth)


def _check_sizes(n_users: int, n_movies: int, n_ratings: int, seed: int) -> None:
    for name, value in (("n_users", n_users), ("n_movies", n_movies), ("n_ratings", n_ratings)):
        if value < 1:
            raise InputError(f"sample: {name} is {value}, expected 1 or more; raise it")
    if seed < 0:
        raise InputError(f"sample: seed is {seed}, expected 0 or more; give another")
    if n_ratings > n_users * n_movies:
        raise InputError(
            f"sample: {n_ratings:,} ratings do not fit {n_users:,} users x {n_movies:,} movies, "
            f"{n_users * n_movies:,} pairs that are rated once at most; lower n_ratings, or raise the others"
        )
    if n_ratings < n_users:
        raise InputError(
            f"sample: {n_ratings:,} ratings leave some of {n_users:,} users without any; "
            "lower n_users or raise n_ratings"
        )


# Movies ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Movies:
    """Movies by release and id. frame: as in Sample; released [M]: seconds since 1970; more as in Truth."""

    frame: pl.DataFrame
    released: Ints
    quality: Floats
    traits_MG: Floats
    cumulative_GM: NDArray[np.float64]


def _movies(n_movies: int, rng: np.random.Generator) -> _Movies:
    age = np.minimum(rng.exponential(25 * YEAR, n_movies), 95 * YEAR)
    released = np.sort(CLOSED - 1 - age.astype(np.int64))
    traits_MG = _traits(n_movies, rng)
    quality = rng.normal(0, _QUALITY_STD, n_movies).astype(np.float32)
    # A good movie tends to be seen by more people: the ranks are of quality mixed with luck.
    order = np.argsort(-(0.5 * quality / _QUALITY_STD + rng.normal(size=n_movies)))
    popularity = np.empty(n_movies)
    popularity[order] = (np.arange(n_movies) + 3.0) ** -_POWER
    cumulative_GM = np.zeros((len(GENRES), n_movies + 1))
    np.cumsum(traits_MG.T * popularity, axis=1, out=cumulative_GM[:, 1:])
    frame = pl.DataFrame(
        {
            "movie_id": np.cumsum(1 + rng.geometric(0.35, n_movies) // 3),
            "title": _titles(_datetimes(released).dt.year().to_list(), rng),
            "genres": _genre_names(traits_MG),
        }
    )
    return _Movies(frame, released, quality, traits_MG, cumulative_GM)


def _traits(n_movies: int, rng: np.random.Generator) -> Floats:
    """How much of each genre a movie has [M, G]: one to three genres, the first the strongest; length 1."""
    ranked = np.argsort(-(np.log(_FRACTION) + rng.gumbel(size=(n_movies, _FRACTION.size))), axis=1)[:, :3]
    n_genres = rng.choice([1, 2, 3], n_movies, p=[0.35, 0.4, 0.25])
    weight = np.array([1.0, 0.6, 0.4]) * (np.arange(3) < n_genres[:, None])
    traits = np.zeros((n_movies, _FRACTION.size), dtype=np.float32)
    np.put_along_axis(traits, ranked, weight, axis=1)
    traits /= np.linalg.norm(traits, axis=1, keepdims=True)
    return traits


def _genre_names(traits_MG: Floats) -> list[str]:
    return ["|".join(itertools.compress(GENRES, row)) for row in (traits_MG > 0).tolist()]


def _pick_probability(odds_BG: Floats, cumulative_GM: NDArray[np.float64], n_released: Ints) -> Floats:
    """Probability [B, M] that users [B] with these odds of genres pick each movie, when so many are out."""
    out_BG = np.maximum(cumulative_GM[:, n_released].T, 1e-30)
    picked_BM = (odds_BG / out_BG).astype(np.float32) @ np.diff(cumulative_GM, axis=1).astype(np.float32)
    return np.where(np.arange(picked_BM.shape[1]) < n_released[:, None], picked_BM, np.float32(0))


# Users ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Users:
    """bias [U], taste_UG, joined and left [U] in seconds since 1970."""

    bias: Floats
    taste_UG: Floats
    joined: Ints
    left: Ints


def _users(n_users: int, rng: np.random.Generator) -> _Users:
    joined = OPENED + rng.random(n_users) * (CLOSED - OPENED - 0.1 * YEAR)
    left = np.minimum(joined + rng.lognormal(-1, 1.5, n_users) * YEAR, CLOSED - 86_400)
    bias = rng.normal(0, _USER_STD, n_users).astype(np.float32)
    liking_UF = rng.standard_normal((n_users, _FLAVOUR_GF.shape[1]), dtype=np.float32)
    return _Users(bias, liking_UF @ _FLAVOUR_GF.T, joined.astype(np.int64), left.astype(np.int64))


def _activity(n_users: int, n_movies: int, n_ratings: int, rng: np.random.Generator) -> Ints:
    """Ratings of each user [U]: log-normal above the least, at most the catalogue, n_ratings in all."""
    least = min(MIN_ACTIVITY, n_ratings // n_users, n_movies)
    activity = np.full(n_users, least, dtype=np.int64)
    appetite = rng.lognormal(0, 1.2, n_users)
    while (missing := n_ratings - int(activity.sum())) > 0:
        room = activity < n_movies
        wanted = appetite * room
        extra = np.floor(missing * wanted / wanted.sum()).astype(np.int64)
        if not extra.any():  # fewer than a rating each is left: one each, from the most active on
            extra[np.argsort(-wanted, kind="stable")[: min(missing, int(room.sum()))]] = 1
        activity = np.minimum(activity + extra, n_movies)
    return activity


def _genre_odds(taste_BG: Floats) -> Floats:
    """Probability [B, G] that tastes [B, G] pick each genre: softmax of how common and how liked it is."""
    logit = np.log(_FRACTION) + _TASTE_PICKS * taste_BG
    odds = np.exp(logit - logit.max(axis=1, keepdims=True))
    fraction: Floats = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
    return fraction


def _user_chunks(activity: Ints) -> Iterator[slice]:
    """Ranges of users with about _CHUNK_RATINGS ratings each."""
    total = np.cumsum(activity)
    first = 0
    while first < activity.size:
        before = total[first] - activity[first]
        stop = max(first + 1, int(np.searchsorted(total, before + _CHUNK_RATINGS, side="right")))
        yield slice(first, stop)
        first = stop


# Ratings --------------------------------------------------------------------------------------------


class _Picks(NamedTuple):
    """Who picks what, and in which session: three arrays [R] of rows within the chunk."""

    user: Ints
    movie: Ints
    session: Ints

    def where(self, kept: NDArray[np.bool_]) -> "_Picks":
        return _Picks(self.user[kept], self.movie[kept], self.session[kept])

    def and_(self, more: "_Picks") -> "_Picks":
        return _Picks(*(np.concatenate(columns) for columns in zip(self, more, strict=True)))


_NO_PICKS = _Picks(*(np.empty(0, dtype=np.int64) for _ in range(3)))


@dataclass(frozen=True)
class _Chunk:
    """Users first .. first + B - 1: how many ratings each [B], odds of their genres, and their sessions [S].

    User b has n_sessions[b] of them, from first_session[b] on. session_start: seconds since 1970; n_released:
    movies that are out by then.
    """

    first: int
    activity: Ints
    odds_BG: Floats
    first_session: Ints
    n_sessions: Ints
    session_start: Ints
    n_released: Ints


def _chunk(
    chosen: slice,
    activity: Ints,
    users: _Users,
    *,
    movies: _Movies,
    rng: np.random.Generator,
) -> _Chunk:
    n_sessions = 1 + rng.poisson(activity / _SESSION_RATINGS)
    owner = np.repeat(np.arange(chosen.start, chosen.stop), n_sessions)
    stay = rng.random(owner.size) * (users.left - users.joined)[owner]
    start = users.joined[owner] + stay.astype(np.int64)
    n_released = np.searchsorted(movies.released, start, side="right")
    first_session = np.cumsum(n_sessions) - n_sessions
    odds_BG = _genre_odds(users.taste_UG[chosen])
    return _Chunk(chosen.start, activity, odds_BG, first_session, n_sessions, start, n_released)


def _ratings(chunk: _Chunk, movies: _Movies, truth: Truth, rng: np.random.Generator) -> pl.DataFrame:
    """The ratings of a chunk, sorted by user and time."""
    user, movie, session = _picks(chunk, movies, rng)
    seconds = chunk.session_start[session] + rng.integers(0, _SESSION_SECONDS, user.size)
    released = movies.released[movie]
    # Who rates much of the catalogue rates movies of after the session too: at any time from the release on.
    later = released + (rng.random(user.size) * (CLOSED - released)).astype(np.int64)
    seconds = np.where(seconds < released, later, seconds)
    order = np.argsort((user << 32) + seconds, kind="stable")
    user, movie, seconds = user[order], movie[order], seconds[order]
    stars = truth.expected(user + chunk.first, movie)
    stars += rng.standard_normal(user.size, dtype=np.float32) * np.float32(_NOISE_STD)
    return pl.DataFrame(
        {
            "user_id": user + chunk.first + 1,
            "movie_id": movies.frame["movie_id"].to_numpy()[movie],
            "rating": np.clip(np.round(2 * stars) / 2, 0.5, 5.0),
            "timestamp": _datetimes(seconds),
        }
    )


def _picks(chunk: _Chunk, movies: _Movies, rng: np.random.Generator) -> _Picks:
    """Distinct (user, movie) pairs, activity[b] of user b.

    Drawing again when a pair comes twice is drawing without replacement. Where that would take long, for
    users who rate much of what is out, the odds of every movie are computed instead.
    """
    n_out = np.minimum.reduceat(chunk.n_released, chunk.first_session)
    dense = chunk.activity > _DENSE_FRACTION * n_out
    missing = np.where(dense, 0, chunk.activity)
    unfinished, finished = _NO_PICKS, []
    for _ in range(_ROUNDS):
        if not missing.any():
            break
        spare = (missing + 3) // 4  # for repeats
        drawn = _drawn(np.repeat(np.arange(missing.size), missing + spare), chunk, movies, rng)
        picked = _without_repeats(unfinished.and_(drawn), chunk.activity, n_movies=movies.released.size)
        count = np.bincount(picked.user, minlength=missing.size)
        missing = np.where(missing > 0, chunk.activity - count, 0)
        unfinished = picked.where(missing[picked.user] > 0)
        finished.append(picked.where(missing[picked.user] == 0))
    dense |= missing > 0
    for users in _dense_blocks(np.flatnonzero(dense), movies.released.size):
        finished.append(_dense_picks(users, chunk, movies, rng))
    return _Picks(*(np.concatenate(columns) for columns in zip(*finished, strict=True)))


def _drawn(user: Ints, chunk: _Chunk, movies: _Movies, rng: np.random.Generator) -> _Picks:
    """A pick for each entry of user [R]: a session, a genre, a movie of it that is out, if any."""
    session = chunk.first_session[user] + (rng.random(user.size) * chunk.n_sessions[user]).astype(np.int64)
    n_out = chunk.n_released[session]
    ticket = rng.random(user.size, dtype=np.float32)
    genre = np.zeros(user.size, dtype=np.int8)
    for column in np.cumsum(chunk.odds_BG, axis=1).T[:-1]:
        genre += ticket > column[user]
    movie = np.empty(user.size, dtype=np.int64)
    for number, cumulative in enumerate(movies.cumulative_GM):
        place = np.flatnonzero(genre == number)
        # Above 0, so that a movie with odds of 0 is never hit.
        target = (1 - rng.random(place.size)) * cumulative[n_out[place]]
        movie[place] = np.searchsorted(cumulative, target, side="left") - 1
    return _Picks(user, movie, session).where(movie >= 0)


def _without_repeats(picks: _Picks, activity: Ints, *, n_movies: int) -> _Picks:
    """Each pair's first pick, and of these the first activity[b] of user b; by user, in their order."""
    _, first = np.unique(picks.user * n_movies + picks.movie, return_index=True)
    first.sort()
    first = first[np.argsort(picks.user[first], kind="stable")]
    user = picks.user[first]
    count = np.bincount(user, minlength=activity.size)
    place = np.arange(user.size) - (np.cumsum(count) - count)[user]
    return _Picks(*(column[first[place < activity[user]]] for column in picks))


def _dense_blocks(users: Ints, n_movies: int) -> list[Ints]:
    """Users in blocks of about _CHUNK_PAIRS user x movie pairs."""
    size = max(1, _CHUNK_PAIRS // n_movies)
    return [users[start : start + size] for start in range(0, users.size, size)]


def _dense_picks(users: Ints, chunk: _Chunk, movies: _Movies, rng: np.random.Generator) -> _Picks:
    """The picks of users [B] by Gumbel noise on the log-odds of every movie: the top n of these are n draws
    without replacement (Kool et al., 2019). A movie that is not out yet comes last."""
    stop = chunk.first_session[users] + chunk.n_sessions[users]
    sessions = zip(chunk.first_session[users], stop, strict=True)
    n_out = np.array([chunk.n_released[first:last].max() for first, last in sessions])
    odds_BM = _pick_probability(chunk.odds_BG[users], movies.cumulative_GM, n_out)
    score_BM = np.log(odds_BM + 1e-30) + rng.gumbel(size=odds_BM.shape)
    movie = [np.argsort(-score)[:count] for score, count in zip(score_BM, chunk.activity[users], strict=True)]
    user = np.repeat(users, chunk.activity[users])
    session = chunk.first_session[user] + (rng.random(user.size) * chunk.n_sessions[user]).astype(np.int64)
    return _Picks(user, np.concatenate(movie), session)


# Names ----------------------------------------------------------------------------------------------


_FIRST = (
    "Crimson Silent Midnight Electric Forgotten Velvet Broken Golden Paper Frozen Hollow Restless "
    "Borrowed Second Invisible Burning Distant Reluctant Polite Suspicious Magnetic Unfinished Amber "
    "Wandering Clockwork Lonely Wicked Sleepless Northern Salty Emerald Improbable Loud Tender Feral Last "
    "First Secret Plastic Cosmic Stolen Crooked Gentle Rusty Sunday Winter Blue Haunted Lucky Nervous "
    "Grand Upside-Down Half-Baked Moonlit Overdue Ticklish Quantum Château Déjà-Vu Señorita's Übermütige "
    "Éternal Façade"
)
_SECOND = (
    "Harbour Walrus Accountant Orchard Lighthouse Detective Empire Waltz Submarine Librarian Thunder "
    "Garden Bicycle Horizon Baker Parade Astronaut Kingdom Letter Cactus Railway Comet Umbrella Heist "
    "Violin Penguin Desert Promise Mirror Circus Volcano Neighbour Satellite Typewriter Lagoon Wolf "
    "Duchess Marathon Pickle Clock Island Prophet Dentist Galaxy Tango Telegram Avalanche Beekeeper "
    "Sonata Labyrinth Sandwich Outlaw Equation Carousel Goose Ambassador Shadow Café Niño Fjörd Piñata "
    "Smörgåsbord Żubr Matryoshka"
)
_PLACES = (
    "Lisbon Saturn Kraków Valparaíso Tucson Reykjavík Marseille Nowhere Osaka Timbuktu Brooklyn São_Paulo "
    "Vienna Zanzibar Yonkers Malmö Atlantis Dunedin Winnipeg Casablanca"
)
_NAMED = (  # what a page, a CSV file or a terminal may trip over, once each
    "<b>Bold</b> & the Beautiful",
    "Good, the Bad and the Comma, The",
    'My Name Is "Quote"',
    "千と一の夜",
    "Crème Brûlée, Mon Amour",
    "It's a Wonderful <script>alert('Life')</script>",
    "Ночной поезд",
    "Naïve & Sentimental 🎬",
    "100% Cotton; DROP TABLE Movies",
)


def _titles(years: list[int], rng: np.random.Generator) -> list[str]:
    """An invented title with its year for each movie, by release; a name that comes again is a sequel."""
    n_movies = len(years)
    words = [np.array(text.split()) for text in (_FIRST, _SECOND, _SECOND, _PLACES)]
    chosen = [column[rng.integers(0, column.size, n_movies)].tolist() for column in words]
    patterns = rng.integers(0, 8, n_movies).tolist()
    names = [_name(pattern, *parts) for pattern, *parts in zip(patterns, *chosen, strict=True)]
    for row, name in zip(rng.permutation(n_movies).tolist(), _NAMED, strict=False):
        names[row] = name
    seen: dict[str, int] = {}
    titles = []
    for name, year in zip(names, years, strict=True):
        seen[name] = number = seen.get(name, 0) + 1
        titles.append(f"{name} ({year})" if number == 1 else f"{name} {number} ({year})")
    return titles


def _name(pattern: int, first: str, second: str, other: str, place: str) -> str:
    place = place.replace("_", " ")
    return (
        f"{first} {second}",
        f"{first} {second}, The",
        f"{second} of {place}, The",
        f"{first} {second} in {place}",
        f"{second} and the {other}, The",
        f"{first}, {second} & {other}",
        f"{second}: {place} Calling",
        f"My {first} {second}",
    )[pattern]


def _datetimes(seconds: Ints) -> pl.Series:
    """Seconds since 1970 [R] as datetime[us], UTC without a zone."""
    return pl.Series("timestamp", seconds.astype(np.int64) * 1_000_000).cast(pl.Datetime("us"))
