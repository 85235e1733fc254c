"""One case in a process of its own, with a time limit; the counts of all cases by kind."""

import os
import pickle
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Literal

from fithubert.errors import UserError

Verdict = Literal["same", "refused", "wrong", "traceback", "hang", "died"]
#: What a reader may do with a damaged file.
GOOD = ("same", "refused")
_LIMIT_SECONDS = 120.0
_LONGEST_MESSAGE = 1000


class WrongError(AssertionError):
    """A result that is not the right one, or something that was lost or left behind."""


@dataclass(frozen=True)
class Case:
    """`run` returns if all is well; it raises UserError for a refusal, and anything else for a failure."""

    kind: str
    name: str
    run: Callable[[], None]


@dataclass(frozen=True)
class Outcome:
    """The end of a case, with the message or the last line of the traceback."""

    kind: str
    name: str
    verdict: Verdict
    words: str
    seconds: float


def run_case(case: Case, limit_seconds: float = _LIMIT_SECONDS) -> Outcome:
    """The outcome of `case` in a forked process, which cannot hurt this one."""
    begun = time.monotonic()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.setpgid(0, 0)
        _silence()
        os.write(writing, pickle.dumps(_judge(case)))
        os._exit(0)
    os.close(writing)
    verdict, words = _receive(reading, limit_seconds)
    os.close(reading)
    for group in (child, -child):
        try:
            os.kill(group, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
    os.waitpid(child, 0)
    return Outcome(case.kind, case.name, verdict, words, time.monotonic() - begun)


def _silence() -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)


def _judge(case: Case) -> tuple[Verdict, str]:
    try:
        case.run()
    except UserError as error:
        words = str(error)
        if "\n" in words or not words or len(words) > _LONGEST_MESSAGE:
            return "wrong", f"not a message of one line: {words[:300]!r}"
        return "refused", words
    except WrongError as error:
        return "wrong", str(error)[:500]
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return "traceback", f"{type(error).__name__}: {str(error)[:300]} ({place.filename[-50:]}:{place.lineno})"
    return "same", ""


def _receive(reading: int, limit_seconds: float) -> tuple[Verdict, str]:
    data = b""
    ending = time.monotonic() + limit_seconds
    while True:
        ready, _, _ = select.select([reading], [], [], max(0.0, ending - time.monotonic()))
        if not ready:
            return "hang", f"no end after {limit_seconds:.0f} s"
        part = os.read(reading, 2**16)
        if not part:
            break
        data += part
    return pickle.loads(data) if data else ("died", "the process ended without a word")


def run_cases(cases: Sequence[Case], jobs: int, on_outcome: Callable[[Outcome], None]) -> list[Outcome]:
    """The outcomes of all cases; `jobs` processes each take every `jobs`-th case."""
    if jobs == 1:
        outcomes = []
        for case in cases:
            outcomes.append(run_case(case))
            on_outcome(outcomes[-1])
        return outcomes
    _CASES[:] = cases
    with ProcessPoolExecutor(jobs, mp_context=get_context("fork")) as pool:
        found = []
        for outcome in pool.map(_run_number, range(len(cases))):
            found.append(outcome)
            on_outcome(outcome)
    return found


#: The cases, inherited by the forked workers: functions inside functions cannot be pickled.
_CASES: list[Case] = []


def _run_number(number: int) -> Outcome:
    return run_case(_CASES[number])


def count_outcomes(outcomes: Iterable[Outcome]) -> Iterator[dict[str, object]]:
    """One row per kind: tried; survived, with the right result or refused in one line; failed."""
    by_kind: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_kind.setdefault(outcome.kind, []).append(outcome)
    for kind, found in by_kind.items():
        failed = sum(o.verdict not in GOOD for o in found)
        yield {
            "kind": kind,
            "tried": len(found),
            "survived": len(found) - failed,
            "of these refused in one line": sum(o.verdict == "refused" for o in found),
            "failed": failed,
        }


def show_progress(outcome: Outcome) -> None:
    """A failure as a line on standard error."""
    if outcome.verdict not in GOOD:
        print(f"FAILED {outcome.kind}: {outcome.name}: {outcome.verdict}: {outcome.words}", file=sys.stderr, flush=True)
