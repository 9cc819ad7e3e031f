"""A model in storage: weights as safetensors, everything else as JSON and Parquet, never a pickle.

MODEL_URI/network.safetensors   the weights
MODEL_URI/model.json            the network's name, settings and sizes, and the configuration
MODEL_URI/users.parquet         user_id by row, n_ratings
MODEL_URI/movies.parquet        movie_id by row, n_ratings, and the columns of the movies table
"""

import io
import json
from dataclasses import asdict, dataclass, replace
from typing import Any

import polars as pl
import safetensors.torch
import torch

from cfjobs import models, storage
from cfjobs.config import Config, validated
from cfjobs.errors import InputError
from cfjobs.models.network import Network, Settings

FORMAT = 1


@dataclass(frozen=True)
class Model:
    """A trained network with the ids of its rows.

    users: user_id, n_ratings by row. movies: movie_id, n_ratings and any further columns by row. n_ratings
    counts training ratings: a row with none is an unknown id.
    """

    network: Network
    config: Config
    users: pl.DataFrame
    movies: pl.DataFrame
    epochs: int

    def to(self, device: torch.device) -> "Model":
        return replace(self, network=self.network.to(device))


def save_model(uri: str, model: Model) -> None:
    """Write a model under a URI; the description last, so that a folder with one is whole."""
    weights = {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.network.state_dict().items()
    }
    storage.write_bytes(storage.join(uri, "network.safetensors"), safetensors.torch.save(weights))
    for name, frame in (("users", model.users), ("movies", model.movies)):
        storage.write_bytes(storage.join(uri, f"{name}.parquet"), parquet_bytes(frame))
    description = {
        "format": FORMAT,
        "network": model.config.model,
        "settings": asdict(model.network.settings),
        "n_users": model.network.n_users,
        "n_movies": model.network.n_movies,
        "epochs": model.epochs,
        "config": model.config.model_dump(mode="json"),
    }
    storage.write_bytes(storage.join(uri, "model.json"), json.dumps(description, indent=1).encode())


def load_model(uri: str) -> Model:
    """Read a model onto the CPU; InputError when the URI does not hold one."""
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
        n_users=description["n_users"],
        n_movies=description["n_movies"],
        settings=Settings(**shape),
    )
    network.load_state_dict(
        safetensors.torch.load(storage.read_bytes(storage.join(uri, "network.safetensors")))
    )
    network.eval()
    users, movies = (
        pl.read_parquet(io.BytesIO(storage.read_bytes(storage.join(uri, f"{name}.parquet"))))
        for name in ("users", "movies")
    )
    return Model(network, validated(description["config"]), users, movies, description["epochs"])


def parquet_bytes(frame: pl.DataFrame) -> bytes:
    """A frame as one Parquet file, zstd."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", statistics=True)
    return buffer.getvalue()


def _format_of(description: Any) -> Any:
    return description.get("format") if isinstance(description, dict) else "unknown"
