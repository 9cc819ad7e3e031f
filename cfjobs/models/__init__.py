"""The networks: what each is made of, how it is built, and how it is trained well."""

from cfjobs.models.registry import Plan, block_recipe, build, names, plan, recipe_of, settings

__all__ = [
    "Plan",
    "block_recipe",
    "build",
    "names",
    "plan",
    "recipe_of",
    "settings",
]
