"""The embedded corpus, synthesised by processes of its own; frame labels from time-aligned phones."""

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fithubert.config.data import SyntheticData
from fithubert.data.manifest import (
    KINDS,
    SPLITS,
    Intent,
    Manifest,
    Phone,
    Slot,
    Turn,
    Utterance,
    manifest_path,
    new_audio,
)
from fithubert.data.synthetic.lexicon import SILENCE
from fithubert.data.synthetic.sentences import normalise
from fithubert.data.synthetic.speakers import STYLES, Item, Plan, Speaker, plan_corpus
from fithubert.data.synthetic.speech import USER_ERROR_STATUS, write_voice_data
from fithubert.errors import UserError
from fithubert.frames import SAMPLE_RATE_HZ, receptive_field


def frame_phones(
    phones: Sequence[Phone], inventory: Mapping[str, int], num_frames: int, convolutions: Sequence[tuple[int, int]]
) -> NDArray[np.int64]:
    """(num_frames,) the number in `inventory` of the phone at each frame's centre; -1 if there is none.

    `convolutions` (kernel, stride) give the samples of a frame; phones are in order and do not overlap.
    """
    field, step = receptive_field(convolutions)
    centres = (np.arange(num_frames) * step + field / 2) / SAMPLE_RATE_HZ
    starts = np.array([p.start_seconds for p in phones])
    ends = np.array([p.end_seconds for p in phones])
    labels = np.array([inventory[p.label] for p in phones], dtype=np.int64)
    at = np.searchsorted(starts, centres, side="right") - 1
    inside = (at >= 0) & (centres < ends[at.clip(min=0)])
    return np.where(inside, labels[at.clip(min=0)], -1)


Progress = Callable[[int, int], None]
Answers = dict[str, dict[str, Any]]


def synthesise_corpus(
    config: SyntheticData, out_root: Path, *, jobs: int | None = None, on_progress: Progress | None = None
) -> Manifest:
    """The corpus of `config`, written to `out_root/audio` and `out_root/manifests/corpus.parquet`.

    The bytes depend on `config` alone, not on `jobs` (processes at a time; all cores unless given).
    `on_progress(done, all)` is called as speakers finish. Raises UserError if espeak-ng is not installed.
    """
    plan = plan_corpus(config)
    seed = f"{config.world}/{config.seed}"
    with new_audio(out_root) as folder, tempfile.TemporaryDirectory(prefix="fithubert") as scratch:
        answers = _speak_plan(plan, folder, Path(scratch), seed, jobs or _count_cores(), on_progress)
    manifest = Manifest(tuple(sorted(_rows(plan, answers), key=_place)), out_root)
    manifest.save(manifest_path(out_root))
    return manifest


def _speak_plan(plan: Plan, folder: Path, scratch: Path, seed: str, jobs: int, on_progress: Progress | None) -> Answers:
    voice_data, parts = scratch / "voices", scratch / "parts"
    parts.mkdir()
    write_voice_data(voice_data, {s.name: s.definition for s in plan.speakers})
    for split, kind in {(i.split, i.kind) for i in plan.items} | {(s, "keyword") for _, s in plan.silences}:
        (folder / split / kind).mkdir(parents=True, exist_ok=True)
    by_speaker: dict[str, list[Item]] = defaultdict(list)
    for item in plan.items:
        by_speaker[item.speaker].append(item)
    shared = {
        "seed": seed,
        "microphones": plan.microphones,
        "folder": str(folder),
        "parts": str(parts),
        "voice_data": str(voice_data),
    }
    spoken = [_speaker_job(s, by_speaker[s.name], shared) for s in plan.speakers if by_speaker[s.name]]
    if plan.silences:
        items = [{"id": name, "path": _path(split, "keyword", name)} for name, split in plan.silences]
        spoken.append({**shared, "task": "silence", "items": items})
    answers = _run_jobs(spoken, jobs, on_progress)
    mixtures = _mixture_items(plan, answers)
    chunks = [mixtures[start::jobs] for start in range(jobs)]
    return answers | _run_jobs([{**shared, "task": "mix", "items": c} for c in chunks if c], jobs, None)


def _speaker_job(speaker: Speaker, items: list[Item], shared: dict[str, Any]) -> dict[str, Any]:
    return {
        **shared,
        "task": "speak",
        "accent": speaker.accent,
        "variant": speaker.name,
        "words_per_minute": speaker.words_per_minute,
        "items": [
            {
                "id": item.id,
                "kind": item.kind,
                "text": item.text,
                "style": asdict(STYLES[item.style]),
                "part": item.part_of is not None,
                "path": f"{item.id}.npy" if item.part_of else _path(item.split, item.kind, item.id),
            }
            for item in items
        ],
    }


def _mixture_items(plan: Plan, answers: Answers) -> list[dict[str, Any]]:
    by_mixture: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for item in plan.items:
        if item.part_of:
            phones = answers[item.id]["phones"]
            part = {"speaker": item.speaker, "path": f"{item.id}.npy", "start": phones[0][1], "end": phones[-1][2]}
            by_mixture[item.part_of, item.split].append(part)
    return [{"id": m, "path": _path(s, "mixture", m), "parts": parts} for (m, s), parts in by_mixture.items()]


def _run_jobs(jobs: list[dict[str, Any]], workers: int, on_progress: Progress | None) -> Answers:
    """The answers to every job by item id, from `workers` processes at a time, each fresh."""
    answers: Answers = {}
    with ThreadPoolExecutor(max(1, workers)) as pool:
        futures = {pool.submit(_run_job, job): job for job in jobs}
        try:
            for done, future in enumerate(as_completed(futures), 1):
                answers |= zip((item["id"] for item in futures[future]["items"]), future.result(), strict=True)
                if on_progress:
                    on_progress(done, len(jobs))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return answers


def _run_job(job: dict[str, Any]) -> list[dict[str, Any]]:
    # Run by module name, not by fork or spawn, because it must not import the caller's main module.
    package_root = str(Path(__file__).parents[3])
    search = os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH"))))
    result = subprocess.run(
        [sys.executable, "-m", "fithubert.data.synthetic.speech"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": search, "PYTHONUTF8": "1", "OMP_NUM_THREADS": "1"},
        check=False,
    )
    if result.returncode == USER_ERROR_STATUS:
        raise UserError(result.stderr.strip().splitlines()[-1])
    if result.returncode != 0:
        raise RuntimeError(f"speaking failed with status {result.returncode}:\n{result.stderr}")
    return json.loads(result.stdout)


def _rows(plan: Plan, answers: Answers) -> Iterable[Utterance]:
    for item in plan.items:
        if item.part_of is None:
            yield _row(item, answers[item.id])
    for name, split in plan.silences:
        answer = answers[name]
        yield Utterance(
            name, _audio(split, "keyword", name), answer["digest"], split, "keyword", answer["num_samples"],
            keyword=SILENCE,
        )  # fmt: skip
    for name, split in dict.fromkeys((i.part_of, i.split) for i in plan.items if i.part_of):
        answer = answers[name]
        yield Utterance(
            name, _audio(split, "mixture", name), answer["digest"], split, "mixture", answer["num_samples"],
            turns=tuple(Turn(*turn) for turn in answer["turns"]),
        )  # fmt: skip


def _row(item: Item, answer: dict[str, Any]) -> Utterance:
    text = normalise(item.text)
    return Utterance(
        id=item.id,
        audio=_audio(item.split, item.kind, item.id),
        digest=answer["digest"],
        split=item.split,
        kind=item.kind,
        num_samples=answer["num_samples"],
        speaker=item.speaker,
        text=text,
        words=tuple(text.split()),
        phones=tuple(Phone(*phone) for phone in answer["phones"]),
        keyword=item.keyword,
        intent=Intent(*item.command.intent) if item.command else None,
        slots=tuple(Slot(*slot) for slot in item.command.slots) if item.command else None,
        style=item.style,
        query=item.query,
    )


def _place(utterance: Utterance) -> tuple[int, int, str]:
    return SPLITS.index(utterance.split), KINDS.index(utterance.kind), utterance.id


def _path(split: str, kind: str, name: str) -> str:
    return f"{split}/{kind}/{name}.flac"


def _audio(split: str, kind: str, name: str) -> str:
    return f"audio/{_path(split, kind, name)}"


def _count_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
