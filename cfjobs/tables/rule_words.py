"""The rules of a shop in words: what `top_n.rule` says of a place, and which rules a night had."""

from collections.abc import Mapping
from typing import Any

from cfjobs.tables.schema import HELD_BACK, NEW, PINNED

OF_PLACE = {PINNED: "pinned", NEW: "new here", HELD_BACK: "held back"}
"""What put a movie in its place."""


def in_force(counts: Mapping[str, int], settings: Mapping[str, Any]) -> list[str]:
    """The rules in force, a few words each.

    counts: `boosted_movies`, `pinned_movies`, `new_movies`, where they are known. settings: of a `Config`, by
    name.
    """
    found = []
    if n := counts.get("boosted_movies"):
        found.append(f"{n:,} movies boosted")
    if n := counts.get("pinned_movies"):
        found.append(f"{n:,} pinned")
    places = settings.get("rule_places", 0)
    if caps := settings.get("max_per"):
        kinds = " and ".join(f"{most:,} with one value of {name}" for name, most in sorted(caps.items()))
        found.append(f"at most {kinds} among the first {places:,} places")
    if n_new := settings.get("new_places"):
        known = f", of which there are {counts['new_movies']:,}" if "new_movies" in counts else ""
        found.append(
            f"{n_new:,} of the first {places:,} places for movies with at most {settings['new_max_ratings']:,} ratings{known}"
        )
    return found
