"""Several processes that train together: what one of them does for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from undertow.errors import UndertowError

__all__ = ["from_main_process"]

T = TypeVar("T")


def from_main_process(processes: PartialState, make: Callable[[], T]) -> T:
    """What the main process makes, in all processes; the others wait for it and do no work, and write nothing.

    Raises:
        UndertowError: the main process had one; the others get one that says the same.
    """
    if processes.num_processes == 1:
        return make()
    sent: list[Any] = [None, None]
    failed: UndertowError | None = None
    if processes.is_main_process:
        try:
            sent[0] = make()
        except UndertowError as error:
            failed, sent[1] = error, str(error)
    broadcast_object_list(sent)
    if failed is not None:
        raise failed
    if sent[1] is not None:
        raise UndertowError(sent[1])
    found: T = sent[0]
    return found
