"""A model in storage: weights as safetensors, everything else as JSON and Parquet, never a pickle.

MODEL_URI/network.safetensors   the weights
MODEL_URI/unfinished.safetensors   for a warm start: what the network forgets when its training ends, if anything
MODEL_URI/model.json            the network's name, settings and sizes, how it was trained, the encoding of side features, and the configuration
MODEL_URI/users.parquet         user_id by row, n_ratings
MODEL_URI/movies.parquet        movie_id by row, n_ratings, and the columns of the movies table
"""

import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import safetensors.torch
import torch
from numpy.typing import NDArray

from cfjobs import models, storage
from cfjobs.config import Config, validated
from cfjobs.errors import InputError
from cfjobs.features import Encoding
from cfjobs.models.network import Network
from cfjobs.models.ranker import RankingConfig, RankingModel
from cfjobs.models.recipe import Settings
from cfjobs.ratings.catalogue import NOT_DESCRIBED, Encodings, encoded
from cfjobs.storage.parquet import TableFile, parquet_bytes
from cfjobs.storage.tensors import TensorFile

FORMAT = 1


@dataclass(frozen=True)
class Model:
    """The trained networks with the ids of their rows: one for ratings and, where lists go by affinity, one that ranks.

    users: user_id, n_ratings by row. movies: movie_id, n_ratings and any further columns by row. n_ratings
    counts training ratings: a row with none is an unknown id, unless the movie is described by side features.
    encodings: of those features. stars_weight: of the predicted stars beside the ranking network's affinity.
    training: how the rating network was trained; None where a model was saved without saying so.
    """

    network: Network
    ranking: RankingModel | None
    config: Config
    users: pl.DataFrame
    movies: pl.DataFrame
    encodings: Encodings = NOT_DESCRIBED
    stars_weight: float = 0.0
    training: models.Training | None = None

    def knows_movies(self) -> NDArray[np.bool_]:
        """Movies that the networks can tell from any other [M]: those with training ratings, and described ones."""
        rated: NDArray[np.bool_] = self.movies["n_ratings"].to_numpy() > 0
        described = encoded(self.movies, self.encodings.movies)
        return rated if described is None else rated | described.described

    def to(self, device: torch.device) -> "Model":
        """The model on a device."""
        ranking = self.ranking.to(device) if self.ranking else None
        return replace(self, network=self.network.to(device), ranking=ranking)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device


def save_model(uri: str, model: Model, *, for_warm_start: bool = False) -> None:
    """Write a model under a URI; the description last, so that a folder with one is whole.

    for_warm_start: with what a training needs to go on from it.
    """
    _write_tensors(uri, "network", model.network.state_dict())
    if for_warm_start and model.network.unfinished:
        _write_tensors(uri, "unfinished", model.network.unfinished)
    if model.ranking is not None:
        _write_tensors(uri, "ranking", model.ranking.tensors())
    for name, frame in (("users", model.users), ("movies", model.movies)):
        storage.write_bytes(storage.join(uri, f"{name}.parquet"), parquet_bytes(frame))
    description = {
        "format": FORMAT,
        "network": model.config.model,
        "settings": asdict(model.network.settings),
        "n_users": model.network.n_users,
        "n_movies": model.network.n_movies,
        "ranking": asdict(model.ranking.config) if model.ranking else None,
        "training": model.training,
        "stars_weight": model.stars_weight,
        "features": {
            what: encoding.as_json() if encoding else None
            for what, encoding in (("movies", model.encodings.movies), ("users", model.encodings.users))
        },
        "config": model.config.model_dump(mode="json"),
    }
    storage.write_bytes(storage.join(uri, "model.json"), json.dumps(description, indent=1).encode())


def load_model(uri: str, *, users: range | None = None) -> Model:
    """Read a model onto the CPU; InputError when the URI does not hold one.

    users: read the rows of these users alone; row 0 is then the first of them.
    """
    try:
        description = json.loads(storage.read_bytes(storage.join(uri, "model.json")))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"model {uri}: model.json is damaged; name another model") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise InputError(
            f"model {uri}: is of format {_format_of(description)}, this version reads format {FORMAT}; train it again"
        )
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
    network.load_state_dict(_network_tensors(uri, users, of_users=network.user_tensors()))
    network.eval()
    ranking = None
    if description["ranking"] is not None:
        ranking = RankingModel(
            **_read_tensors(uri, "ranking"), config=RankingConfig(**description["ranking"])
        )
    movies = pl.read_parquet(io.BytesIO(storage.read_bytes(storage.join(uri, "movies.parquet"))))
    learnt = {
        what: Encoding.from_json(columns) if columns else None
        for what, columns in description.get("features", {}).items()
    }
    config = validated(description["config"])
    weight = float(description.get("stars_weight", 0.0))
    known = _users(uri, users)
    return Model(
        network, ranking, config, known, movies, Encodings(**learnt), weight, description.get("training")
    )


def user_rows(tensors: TensorFile, users: range, *, of_users: Iterable[str]) -> dict[str, torch.Tensor]:
    """The rows of these users, and the last, which is the unknown user's, of the tensors of users."""
    return {
        name: torch.cat([tensors.rows(name, users.start, users.stop), tensors.rows(name, n_rows - 1, n_rows)])
        for name in of_users
        for n_rows in tensors.shapes[name][:1]
    }


def _network_tensors(uri: str, users: range | None, *, of_users: Iterable[str]) -> dict[str, torch.Tensor]:
    if users is None:
        return _read_tensors(uri, "network")
    tensors = TensorFile(storage.join(uri, "network.safetensors"))
    rows = user_rows(tensors, users, of_users=of_users)
    return rows | {name: tensors.tensor(name) for name in tensors.shapes if name not in rows}


def _users(uri: str, users: range | None) -> pl.DataFrame:
    file = storage.join(uri, "users.parquet")
    if users is None:
        return pl.read_parquet(io.BytesIO(storage.read_bytes(file)))
    return TableFile(file, columns=["user_id", "n_ratings"]).rows(users.start, users.stop)


def load_unfinished(uri: str) -> dict[str, torch.Tensor]:
    """The tensors that a training goes on from in place of the model's own; none where they are the same."""
    absent = not storage.exists(storage.join(uri, "unfinished.safetensors"))
    return {} if absent else _read_tensors(uri, "unfinished")


def _write_tensors(uri: str, name: str, tensors: dict[str, torch.Tensor]) -> None:
    on_cpu = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    storage.write_bytes(storage.join(uri, f"{name}.safetensors"), safetensors.torch.save(on_cpu))


def _read_tensors(uri: str, name: str) -> dict[str, torch.Tensor]:
    return safetensors.torch.load(storage.read_bytes(storage.join(uri, f"{name}.safetensors")))


def _format_of(description: Any) -> Any:
    return description.get("format") if isinstance(description, dict) else "unknown"
