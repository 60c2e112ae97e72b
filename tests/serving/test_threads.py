"""Work in a thread that ends."""

import threading

import pytest

from ttt_hf.serving.threads import in_own_thread


def test_the_thread_has_ended_with_the_work() -> None:
    before = threading.active_count()
    assert in_own_thread(threading.current_thread) is not threading.current_thread()
    assert threading.active_count() == before


def test_errors_are_those_of_the_work() -> None:
    with pytest.raises(ZeroDivisionError):
        in_own_thread(lambda number: 1 / number, number=0)
