"""Work in a thread that ends, so that OpenMP keeps no team of threads for it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar


P = ParamSpec("P")
T = TypeVar("T")


def in_own_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls a function in a thread of its own, and waits for it.

    Args:
        function: What computes.
        *args: Its arguments.
        **kwargs: Those with names.

    Returns:
        What it returns.

    Raises:
        Exception: What it raises.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="ttt-own") as pool:
        return pool.submit(function, *args, **kwargs).result()
