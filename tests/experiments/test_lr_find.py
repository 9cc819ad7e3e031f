"""The learning-rate finder: it suggests rates that train,
and its plot is one file that says what it shows."""

import xml.etree.ElementTree as ET
from datetime import date
from pathlib import Path

import pytest

from cfjobs import models, training
from cfjobs.config import Config
from cfjobs.errors import InputError
from cfjobs.experiments import lr_find, run
from cfjobs.night.records import Inputs
from tests.training.test_rating import checkerboard, network


def points(losses: list[float]) -> list[lr_find.Point]:
    return [lr_find.Point(10.0 ** (place - 4), loss, loss) for place, loss in enumerate(losses)]


def test_the_steepest_and_the_valley_of_a_known_curve() -> None:
    curve = points([1.0, 0.9, 0.5, 0.4, 0.35, 2.0])
    assert lr_find.steepest(curve) == pytest.approx(1e-2)
    assert lr_find.valley(curve) == pytest.approx(1e-1)


def test_a_loss_that_never_falls_is_a_clear_error() -> None:
    with pytest.raises(InputError, match="never falls"):
        lr_find.valley(points([1.0, 1.1, 1.2]))


@pytest.mark.parametrize("model", models.names())
def test_the_suggested_rates_learn_the_checkerboard(model: str) -> None:
    config = Config(model=model, n_factors=8, l2=0.0, dropout=(0.0, 0.0), batch_size=256)
    found = lr_find.find(network(config), checkerboard(), config=config)
    rates = [point.rate for point in found.points]
    assert rates == sorted(rates)
    assert rates[0] == pytest.approx(1e-6)
    assert found.points[0].smoothed == pytest.approx(found.points[0].loss)
    assert 1e-6 < found.valley < 10
    chosen = config.model_copy(update={"learning_rate": found.valley, "epochs": 30})
    trained = network(chosen)
    training.fit_rating(trained, checkerboard(), config=chosen)
    before = training.mean_squared_error(network(chosen), checkerboard(seed=1))
    assert training.mean_squared_error(trained, checkerboard(seed=1)) < 0.9 * before


def test_the_plot_and_the_sketch(data_set: Path, tmp_path: Path) -> None:
    file = tmp_path / "plot.svg"
    found = run.learning_rates_tried(
        Inputs(ratings=str(data_set / "ratings.parquet")),
        svg=file,
        steps=100,
        run_date=date(2026, 3, 1),
        config=Config(n_factors=8, top_n=10),
    )
    root = ET.fromstring(file.read_text(encoding="utf-8"))
    texts = {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"learning rate", "loss (mean squared error)"} <= texts
    assert any(str(text).startswith("valley") for text in texts)
    assert "prefers-color-scheme: dark" in file.read_text(encoding="utf-8")
    assert "href" not in file.read_text(encoding="utf-8")
    assert found["learning_rate_now"] == models.recipe_of(Config()).learning_rate
    assert "*" in found["sketch"]
    assert len(found["points"]) <= 100
