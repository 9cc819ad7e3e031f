"""Where results go: what a stream cannot say is no traceback."""

import io
import json
import sys

import pytest

from cfjobs import cli
from cfjobs.cli.app import show


def test_a_stream_without_all_letters_gets_whole_json_and_readable_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "argv", ["cfjobs", "--version"])
    assert cli.run() == 0
    show({"title": "Amélie"}, as_json=True)
    print("Amélie")
    out.seek(0)
    version, as_json, text = out.read().splitlines()
    assert version.startswith("cfjobs")
    assert json.loads(as_json) == {"title": "Amélie"}
    assert text == "Am?lie"
