"""A model with any file cut, flipped or gone ends in one line that names it, however it is read."""

import shutil
from pathlib import Path

import pytest
import torch

from cfjobs import model_store
from cfjobs.errors import DamagedFile, InputError
from cfjobs.model_store.slices import ModelSlices
from cfjobs.tables import runs

FILES = ("network.safetensors", "ranking.safetensors", "users.parquet", "movies.parquet", "model.json")


@pytest.fixture
def model(two_nights: Path, tmp_path: Path) -> Path:
    uri = runs.published(str(two_nights / "out"))[-1].model_uri
    shutil.copytree(uri, tmp_path / "model")
    return tmp_path / "model"


def damage(data: bytes, kind: str) -> bytes:
    match kind.split():
        case ["cut", where]:
            return data[: int(len(data) * float(where))]
        case ["flip", where]:
            at = min(len(data) - 1, int(len(data) * float(where)))
            return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]
        case ["longer"]:
            return data + b"\\0"
    raise AssertionError(kind)


@pytest.mark.parametrize("name", FILES)
def test_every_damage_of_every_file_ends_in_one_line(model: Path, name: str) -> None:
    model_store.check(str(model))
    whole = (model / name).read_bytes()
    kinds = [f"{how} {where}" for how in ("cut", "flip") for where in (0, 0.01, 0.2, 0.5, 0.9, 0.999)]
    for kind in [*kinds, "longer"]:
        (model / name).write_bytes(damage(whole, kind))
        for read in (model_store.load_model, model_store.check):
            with pytest.raises(DamagedFile, match="is damaged"):
                read(str(model))
        assert not model_store.is_whole(str(model))
    (model / name).unlink()
    with pytest.raises(InputError if name == "model.json" else DamagedFile):
        model_store.load_model(str(model))
    assert not model_store.is_whole(str(model))


@pytest.mark.parametrize("kind", ["cut 0", "cut 0.001", "cut 0.5", "cut 0.999", "longer"])
def test_a_file_that_is_read_by_ranges_must_have_its_length(model: Path, kind: str) -> None:
    whole = (model / "network.safetensors").read_bytes()
    (model / "network.safetensors").write_bytes(damage(whole, kind))
    with pytest.raises(DamagedFile, match=r"network\.safetensors: is damaged"):
        ModelSlices(str(model), device=torch.device("cpu"))
