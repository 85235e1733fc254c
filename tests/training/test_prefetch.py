import threading
from collections.abc import Iterator

import pytest

from fithubert.training.prefetch import prefetch


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


@pytest.mark.parametrize("depth", [1, 3, 100])
def test_order_is_kept(depth: int) -> None:
    assert list(prefetch(range(50), depth)) == list(range(50))
    assert threads() == []


def test_exception_comes_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield from (1, 2)
        raise KeyError("third")

    ahead = prefetch(items(), 5)
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(KeyError, match="third"):
        next(ahead)
    assert threads() == []


def test_stopping_early_ends_the_thread_and_makes_no_more() -> None:
    made = []

    def items() -> Iterator[int]:
        for item in range(10_000):
            made.append(item)
            yield item

    ahead = prefetch(items(), 2)
    assert next(ahead) == 0
    ahead.close()  # type: ignore[attr-defined]
    assert threads() == []
    assert len(made) < 20


def test_it_reads_ahead() -> None:
    third = threading.Event()

    def items() -> Iterator[int]:
        yield from (0, 1)
        third.set()
        yield 2

    ahead = prefetch(items(), 2)
    assert next(ahead) == 0
    assert third.wait(timeout=10)
    assert list(ahead) == [1, 2]
