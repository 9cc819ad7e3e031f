"""A model in storage: weights as safetensors, everything else as JSON and Parquet, never a pickle.

MODEL_URI/network.safetensors   the weights; absent where the model learnt from implicit feedback, and so
                                predicts no ratings
MODEL_URI/unfinished.safetensors   for a warm start: what the network forgets when its training ends, if
                                anything
MODEL_URI/model.json            the network's name, settings and sizes, how it was trained, the encoding of
                                side features,
                                and the configuration; size and SHA-256 of every other file, and of itself
MODEL_URI/users.parquet         user_id by row, n_ratings
MODEL_URI/movies.parquet        movie_id by row, n_ratings, and the columns of the movies table
"""

import hashlib
import io
import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from cfjobs import models, storage
from cfjobs.config import Config, validated
from cfjobs.errors import CfjobsError, DamagedFile, InputError
from cfjobs.features import Encoding
from cfjobs.models.network import Network
from cfjobs.models.ranker import RankingConfig, RankingModel
from cfjobs.models.recipe import Settings
from cfjobs.ratings.catalogue import NOT_DESCRIBED, Encodings, encoded
from cfjobs.storage.faults import first_line
from cfjobs.storage.parquet import TableFile, parquet_bytes
from cfjobs.storage.tensors import TensorFile

log = logging.getLogger(__name__)

FORMAT = 1


@dataclass(frozen=True)
class Model:
    """The trained networks with the ids of their rows: one for ratings, None where the model learnt from
    implicit feedback, and, where lists go by affinity, one that ranks.

    users: user_id, n_ratings by row. movies: movie_id, n_ratings and any further columns by row. n_ratings
    counts training ratings: a row with none is an unknown id, unless the movie is described by side features.
    encodings: of those features. stars_weight: of the predicted stars beside the ranking network's affinity.
    profile: the ranking network for a user whose ratings have no times, where `ranking` goes by the latest.
    training: how the rating network was trained; None where a model was saved without saying so.
    """

    stars: Network | None
    ranking: RankingModel | None
    config: Config
    users: pl.DataFrame
    movies: pl.DataFrame
    encodings: Encodings = NOT_DESCRIBED
    stars_weight: float = 0.0
    profile: RankingModel | None = None
    training: models.Training | None = None

    @property
    def network(self) -> Network:
        """The rating network. InputError where there is none."""
        if self.stars is None:
            raise InputError(
                "model: predicts no ratings, for it learnt from implicit feedback; name one that was trained on ratings"
            )
        return self.stars

    def knows_movies(self) -> NDArray[np.bool_]:
        """Movies that the networks can tell from any other [M]: those with training ratings,
        and described ones."""
        rated: NDArray[np.bool_] = self.movies["n_ratings"].to_numpy() > 0
        described = encoded(self.movies, self.encodings.movies)
        return rated if described is None else rated | described.described

    def to(self, device: torch.device) -> "Model":
        """The model on a device."""
        ranking = self.ranking.to(device) if self.ranking else None
        stars = self.stars.to(device) if self.stars else None
        return replace(self, stars=stars, ranking=ranking)

    @property
    def device(self) -> torch.device:
        if self.stars is None and self.ranking is not None:
            return self.ranking.movie_bias.device
        return next(self.network.parameters()).device


def save_model(uri: str, model: Model, *, for_warm_start: bool = False) -> None:
    """Write a model under a URI; the description last, so that a folder with one is whole.

    for_warm_start: with what a training needs to go on from it.
    """
    files: dict[str, bytes] = {}
    if model.stars is not None:
        files["network.safetensors"] = _tensor_bytes(model.stars.state_dict())
        if for_warm_start and model.stars.unfinished:
            files["unfinished.safetensors"] = _tensor_bytes(model.stars.unfinished)
    if model.ranking is not None:
        files["ranking.safetensors"] = _tensor_bytes(model.ranking.tensors())
    if model.profile is not None:
        files["profile.safetensors"] = _tensor_bytes(model.profile.tensors())
    for name, frame in (("users", model.users), ("movies", model.movies)):
        files[f"{name}.parquet"] = parquet_bytes(frame)
    for name, data in files.items():
        storage.write_bytes(storage.join(uri, name), data)
    description: dict[str, Any] = {
        "format": FORMAT,
        "network": model.config.model,
        "settings": asdict(model.stars.settings) if model.stars else None,
        "n_users": model.stars.n_users if model.stars else model.users.height,
        "n_movies": model.stars.n_movies if model.stars else model.movies.height,
        "ranking": asdict(model.ranking.config) if model.ranking else None,
        "training": model.training,
        "stars_weight": model.stars_weight,
        "profile": asdict(model.profile.config) if model.profile else None,
        "features": {
            what: encoding.as_json() if encoding else None
            for what, encoding in (("movies", model.encodings.movies), ("users", model.encodings.users))
        },
        "config": model.config.model_dump(mode="json"),
        "files": {name: {"size": len(data), "sha256": _sum(data)} for name, data in files.items()},
    }
    description["sha256"] = _own_sum(description)
    storage.write_bytes(storage.join(uri, "model.json"), json.dumps(description, indent=1).encode())


def load_model(uri: str, *, users: range | None = None) -> Model:
    """Read a model onto the CPU; InputError when the URI does not hold one, DamagedFile when it is not whole.

    users: read the rows of these users alone; row 0 is then the first of them.
    """
    description = _description(uri)
    with _whole(uri):
        return _load(uri, description, users)


def check(uri: str) -> None:
    """Read every file of a model and hold it against what was written, a block at a time.

    Raises DamagedFile for one that is missing or is not as it was written, InputError where there is no
    model.
    """
    for name, written in _description(uri).get("files", {}).items():
        where, found = storage.join(uri, name), hashlib.sha256()
        _check_size(where, written["size"])
        for start in range(0, written["size"], _BLOCK):
            found.update(storage.read_range(where, start, min(start + _BLOCK, written["size"])))
        _check_sum(where, found.hexdigest(), written["sha256"])


def is_whole(uri: str) -> bool:
    """Whether a model is there as it was written; what is not is logged."""
    try:
        check(uri)
    except (InputError, DamagedFile) as error:
        log.warning("%s", error)
        return False
    return True


_BLOCK = 1 << 26


def _description(uri: str) -> dict[str, Any]:
    where = storage.join(uri, "model.json")
    data = storage.read_bytes(where)
    try:
        description = json.loads(data)
    except ValueError as error:
        raise DamagedFile(f"{where}: is damaged; {_REMEDY}") from error
    known = isinstance(description, dict)
    if known and ("sha256" in description or "files" in description):
        _check_sum(where, _own_sum(description), description.get("sha256"))
    if not known or description.get("format") != FORMAT:
        raise InputError(
            f"model {uri}: is of format {_format_of(description)}, this version reads format {FORMAT}; train it again"
        )
    return description  # type: ignore[no-any-return]


_REMEDY = "name another model, or train it again"


@contextmanager
def _whole(uri: str) -> Iterator[None]:
    """Turns what libraries say of wrong bytes into DamagedFile."""
    try:
        yield
    except CfjobsError:
        raise
    except (
        SafetensorError,
        pl.exceptions.PolarsError,
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise DamagedFile(f"model {uri}: is damaged ({first_line(error)}); {_REMEDY}") from error


def _check_size(where: str, size: int) -> None:
    try:
        found = storage.size(where)
    except InputError as error:
        raise DamagedFile(f"{where}: is gone; {_REMEDY}") from error
    if found != size:
        raise DamagedFile(f"{where}: is damaged, it has {found:,} bytes of {size:,}; {_REMEDY}")


def _check_sum(where: str, found: str, written: object) -> None:
    if found != written:
        raise DamagedFile(f"{where}: is damaged, its bytes are not those that were written; {_REMEDY}")


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _own_sum(description: dict[str, Any]) -> str:
    rest = {name: value for name, value in description.items() if name != "sha256"}
    return _sum(json.dumps(rest, sort_keys=True).encode())


def _read(uri: str, name: str, description: dict[str, Any]) -> bytes:
    """One file of a model, whole and as it was written."""
    where = storage.join(uri, name)
    written = description.get("files", {}).get(name)
    if written is None:
        return storage.read_bytes(where)
    _check_size(where, written["size"])
    data = storage.read_bytes(where)
    _check_sum(where, _sum(data), written["sha256"])
    return data


def _load(uri: str, description: dict[str, Any], users: range | None) -> Model:
    network = _network(uri, description, users) if description["settings"] else None
    ranking = _ranking(uri, "ranking", description)
    profile = _ranking(uri, "profile", description) if users is None else None
    movies = pl.read_parquet(io.BytesIO(_read(uri, "movies.parquet", description)))
    learnt = {
        what: Encoding.from_json(columns) if columns else None
        for what, columns in description.get("features", {}).items()
    }
    config = validated(description["config"])
    weight = float(description.get("stars_weight", 0.0))
    known = _users(uri, description, users)
    return Model(
        network,
        ranking,
        config,
        known,
        movies,
        Encodings(**learnt),
        weight,
        profile,
        description.get("training"),
    )


def _network(uri: str, description: dict[str, Any], users: range | None) -> Network:
    shape: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in description["settings"].items()
    }
    network = models.build(
        description["network"],
        n_users=description["n_users"] if users is None else len(users),
        n_movies=description["n_movies"],
        settings=Settings(**shape),
    )
    network.load_state_dict(_network_tensors(uri, description, users, of_users=network.user_tensors()))
    network.eval()
    return network


def _ranking(uri: str, name: str, description: dict[str, Any]) -> RankingModel | None:
    config = description.get(name)
    if not config:
        return None
    tensors = _tensors(_read(uri, f"{name}.safetensors", description))
    return RankingModel(**tensors, config=RankingConfig(**config))


def user_rows(tensors: TensorFile, users: range, *, of_users: Iterable[str]) -> dict[str, torch.Tensor]:
    """The rows of these users, and the last, which is the unknown user's, of the tensors of users."""
    return {
        name: torch.cat([tensors.rows(name, users.start, users.stop), tensors.rows(name, n_rows - 1, n_rows)])
        for name in of_users
        for n_rows in tensors.shapes[name][:1]
    }


def _network_tensors(
    uri: str, description: dict[str, Any], users: range | None, *, of_users: Iterable[str]
) -> dict[str, torch.Tensor]:
    if users is None:
        return _tensors(_read(uri, "network.safetensors", description))
    tensors = TensorFile(storage.join(uri, "network.safetensors"))
    rows = user_rows(tensors, users, of_users=of_users)
    return rows | {name: tensors.tensor(name) for name in tensors.shapes if name not in rows}


def _users(uri: str, description: dict[str, Any], users: range | None) -> pl.DataFrame:
    if users is None:
        return pl.read_parquet(io.BytesIO(_read(uri, "users.parquet", description)))
    return TableFile(storage.join(uri, "users.parquet"), columns=["user_id", "n_ratings"]).rows(
        users.start, users.stop
    )


def load_unfinished(uri: str) -> dict[str, torch.Tensor]:
    """The tensors that a training goes on from in place of the model's own; none where they are the same."""
    if not storage.exists(storage.join(uri, "unfinished.safetensors")):
        return {}
    with _whole(uri):
        return _tensors(_read(uri, "unfinished.safetensors", _description(uri)))


def _tensor_bytes(tensors: dict[str, torch.Tensor]) -> bytes:
    return safetensors.torch.save(
        {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    )


def _tensors(data: bytes) -> dict[str, torch.Tensor]:
    return safetensors.torch.load(data)


def _format_of(description: Any) -> Any:
    return description.get("format") if isinstance(description, dict) else "unknown"
