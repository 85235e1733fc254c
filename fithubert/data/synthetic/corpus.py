"""The embedded corpus, synthesised by processes of its own."""

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from fithubert.config.data import SyntheticData
from fithubert.data import KINDS, SILENCE, SPLITS, Intent, Phone, Slot, Turn, Utterance, normalise
from fithubert.data.listing import Progress, count_cores, map_in_threads
from fithubert.data.manifest import Manifest, manifest_path, new_audio
from fithubert.data.synthetic.espeak import write_voice_data
from fithubert.data.synthetic.plan import Plan, plan_corpus
from fithubert.data.synthetic.recording import USER_ERROR_STATUS, audio_path
from fithubert.errors import UserError

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
        answers = _speak_plan(plan, folder, Path(scratch), seed, jobs or count_cores(), on_progress)
    manifest = Manifest(tuple(sorted(_make_rows(plan, answers), key=_place)), out_root)
    manifest.save(manifest_path(out_root))
    return manifest


def _speak_plan(plan: Plan, folder: Path, scratch: Path, seed: str, jobs: int, on_progress: Progress | None) -> Answers:
    voice_data, parts = scratch / "voices", scratch / "parts"
    parts.mkdir()
    write_voice_data(voice_data, {s.name: s.definition for s in plan.speakers})
    for split, kind in {(i.split, i.kind) for i in plan.items} | {(s, "keyword") for _, s in plan.silences}:
        (folder / split / kind).mkdir(parents=True, exist_ok=True)
    by_speaker: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for item in plan.items:
        by_speaker[item.speaker].append(asdict(item))
    shared = {
        "seed": seed,
        "world": plan.world,
        "folder": str(folder),
        "parts": str(parts),
        "voice_data": str(voice_data),
    }
    speakers = [s for s in plan.speakers if s.name in by_speaker]
    spoken = [{**shared, **asdict(s), "task": "speak", "items": by_speaker[s.name]} for s in speakers]
    if plan.silences:
        items = [{"id": name, "split": split, "kind": "keyword"} for name, split in plan.silences]
        spoken.append({**shared, "task": "silence", "items": items})
    answers = _run_jobs(spoken, jobs, on_progress)
    mixtures = _list_mixtures(plan, answers)
    chunks = [mixtures[start::jobs] for start in range(jobs)]
    return answers | _run_jobs([{**shared, "task": "mix", "items": c} for c in chunks if c], jobs, None)


def _list_mixtures(plan: Plan, answers: Answers) -> list[dict[str, Any]]:
    by_mixture: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for item in plan.items:
        if item.part_of:
            phones = answers[item.id]["phones"]
            part = {"id": item.id, "speaker": item.speaker, "start": phones[0][1], "end": phones[-1][2]}
            by_mixture[item.part_of, item.split].append(part)
    return [{"id": m, "split": s, "kind": "mixture", "parts": parts} for (m, s), parts in by_mixture.items()]


def _run_jobs(jobs: list[dict[str, Any]], workers: int, on_progress: Progress | None) -> Answers:
    """The answers to every job by item id, from `workers` processes at a time, each fresh."""
    answered = map_in_threads(run_job, jobs, workers, on_progress)
    items = [item for job in jobs for item in job["items"]]
    return {item["id"]: answer for item, answer in zip(items, chain(*answered), strict=True)}


def run_job(job: dict[str, Any], module: str = "fithubert.data.synthetic.recording") -> Any:
    """The answer of `module`, run in a process of its own, which reads `job` from stdin; both are JSON.

    Raises UserError with the last line that it prints if it ends with USER_ERROR_STATUS.
    """
    # Run by module name, not by fork or spawn, because it must not import the caller's main module.
    package_root = str(Path(__file__).parents[3])
    search = os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH"))))
    result = subprocess.run(
        [sys.executable, "-m", module],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": search, "PYTHONUTF8": "1", "OMP_NUM_THREADS": "1"},
        check=False,
    )
    if result.returncode == USER_ERROR_STATUS:
        raise UserError(result.stderr.strip().rpartition("\n")[2])
    if result.returncode != 0:
        raise RuntimeError(f"{module} failed with status {result.returncode}:\n{result.stderr}")
    return json.loads(result.stdout)


def _make_rows(plan: Plan, answers: Answers) -> Iterator[Utterance]:
    for item in plan.items:
        if item.part_of is None:
            text, command = normalise(item.text), item.command
            yield _make_row(
                item.id, item.split, item.kind, answers[item.id],
                speaker=item.speaker,
                text=text,
                words=tuple(text.split()),
                phones=tuple(Phone(*phone) for phone in answers[item.id]["phones"]),
                keyword=item.keyword,
                intent=Intent(*command.intent) if command else None,
                slots=tuple(Slot(*slot) for slot in command.slots) if command else None,
                style=item.style,
                query=item.query,
            )  # fmt: skip
    for name, split in plan.silences:
        yield _make_row(name, split, "keyword", answers[name], keyword=SILENCE)
    for name, split in dict.fromkeys((i.part_of, i.split) for i in plan.items if i.part_of):
        turns = tuple(Turn(*turn) for turn in answers[name]["turns"])
        yield _make_row(name, split, "mixture", answers[name], turns=turns)


def _make_row(name: str, split: str, kind: str, answer: dict[str, Any], **labels: Any) -> Utterance:
    audio = f"audio/{audio_path(split, kind, name)}"
    return Utterance(name, audio, answer["digest"], split, kind, answer["num_samples"], **labels)


def _place(utterance: Utterance) -> tuple[int, int, str]:
    return SPLITS.index(utterance.split), KINDS.index(utterance.kind), utterance.id
