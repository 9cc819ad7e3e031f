"""Models in storage: safetensors and JSON, never pickles; read whole or by ranges of users."""

from cfjobs.model_store.files import (
    Model,
    check,
    is_whole,
    load_model,
    load_unfinished,
    save_model,
    user_rows,
)

__all__ = [
    "Model",
    "check",
    "is_whole",
    "load_model",
    "load_unfinished",
    "save_model",
    "user_rows",
]
