"""`python -m cfjobs.tables` prints docs/tables.md."""

from cfjobs.tables.schema import document

print(document(), end="")
