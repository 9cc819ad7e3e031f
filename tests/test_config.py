"""Configuration: every key documented, checked, and the same in a file,
on the command line and in the flow."""

import tomllib
from pathlib import Path

import pytest

from cfjobs.config import GROUPS, Config, as_toml, load_config
from cfjobs.errors import InputError


def test_every_key_has_a_meaning() -> None:
    assert all(field.description for field in Config.model_fields.values())


def test_what_is_printed_is_read_back(tmp_path: Path) -> None:
    config = Config(epochs=3, hidden=(20, 10), y_padding="learned", y_range=(1, 5))
    file = tmp_path / "night.toml"
    file.write_text(as_toml(config))
    assert load_config(file) == config
    assert tomllib.loads(as_toml(Config())).keys() <= Config.model_fields.keys()


def test_settings_go_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "night.toml"
    file.write_text('model = "net"\nepochs = 3\n')
    config = load_config(file, ["epochs=7", "y_range=[1, 5]", "schedule=cosine", "refit=false"])
    assert (config.model, config.epochs, config.y_range, config.schedule, config.refit) == (
        "net",
        7,
        (1, 5),
        "cosine",
        False,
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["epoch=3"], "configuration key epoch: is unknown; did you mean epochs?"),
        (["zzz=3"], "`cfjobs config` lists every key"),
        (["epochs=0"], "configuration key epochs: got 0"),
        (["epochs=many"], "configuration key epochs: got 'many'"),
        (["holdout=yesterday"], "configuration key holdout: got 'yesterday'"),
        (["y_range=[5, 1]"], "expected the lower end first"),
        (["y_padding=-1"], "y_padding is -1"),
        (["dropout=[0.5, 1.5]"], "dropout is"),
        (["hidden=[]"], "hidden is"),
        (["device=tpu"], "configuration key device"),
        (["epochs"], "has no '='"),
    ],
)
def test_a_wrong_setting_says_what_was_got(settings: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        load_config(None, settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_absent_or_not_toml_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_config(tmp_path / "absent.toml")
    (tmp_path / "broken.toml").write_text("epochs = = 3")
    with pytest.raises(InputError, match="is not TOML"):
        load_config(tmp_path / "broken.toml")


def test_a_form_shows_the_settings_by_group_and_the_override_first() -> None:
    fields = Config.model_json_schema()["properties"]
    shown = sorted(fields, key=lambda name: fields[name]["position"])
    assert shown[0] == "gate_override"
    assert [name for name in Config.model_fields if name != "gate_override"] == shown[1:]
    assert set(GROUPS) <= set(fields)
    groups = [fields[name]["title"].partition(": ")[0] for name in Config.model_fields]
    assert list(dict.fromkeys(groups)) == list(GROUPS.values())
    assert fields["gate_override"]["title"] == "Holdout and gate: gate_override"
