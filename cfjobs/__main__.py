"""`python -m cfjobs` is `cfjobs`."""

from cfjobs.cli import main

main()
