"""The networks: what each is made of, how it is built, and how it is trained well."""

from cfjobs.models.registry import (
    Plan,
    Training,
    build,
    names,
    plan,
    recipe_of,
    settings,
    training_of,
)

__all__ = [
    "Plan",
    "Training",
    "build",
    "names",
    "plan",
    "recipe_of",
    "settings",
    "training_of",
]
