"""The next item made while the caller works on one."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Made = TypeVar("Made")


def ahead(items: Iterator[Made]) -> Iterator[Made]:
    """The items in order, each asked for in a thread of its own as soon as the one before is there."""

    def following() -> list[Made]:
        return list(islice(items, 1))

    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        pending: Future[list[Made]] = thread.submit(following)
        while made := pending.result():
            pending = thread.submit(following)
            yield made[0]
