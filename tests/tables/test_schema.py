"""The data dictionary says what the schemas say."""

from pathlib import Path

from cfjobs import tables


def test_the_dictionary_is_the_one_of_the_schemas() -> None:
    page = Path(__file__).parents[2] / "docs" / "tables.md"
    assert page.read_text(encoding="utf-8") == tables.document(), (
        "run `python -m cfjobs.tables > docs/tables.md`"
    )


def test_every_column_has_a_meaning() -> None:
    assert all(column.meaning for table in tables.PUBLISHED for column in table.columns)
