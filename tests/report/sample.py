"""A workspace of metrics as the stages write them, with made-up but plausible figures."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fithubert.files import digest, write_json
from fithubert.records import ModelScores, SuperbMetrics, write_resamples
from fithubert.report.summary import ReportPlan

STUDENTS = ("fithubert", "fithubert_notr", "distilhubert")
MODELS = ("fbank", "teacher", *STUDENTS)
TASKS = ("pr", "ks", "sid", "ic")
PLAN = ReportPlan(
    models=MODELS,
    tasks=TASKS,
    students=STUDENTS,
    ablations=("time_reduction",),
)

_PARAMS = {
    "fbank": (0, 0, 0),
    "teacher": (5_212_000, 0, 0),
    "fithubert": (661_000, 43_000, 473_000),
    "fithubert_notr": (643_000, 25_000, 275_000),
    "distilhubert": (1_702_000, 0, 610_000),
}
_MACS = {"fbank": 2.0e6, "teacher": 412e6, "fithubert": 121e6, "fithubert_notr": 148e6, "distilhubert": 236e6}
_LATENCY = {"fbank": 0.018, "teacher": 0.212, "fithubert": 0.081, "fithubert_notr": 0.104, "distilhubert": 0.127}
_SCORES = {
    "fbank": {"pr": 55.9, "ks": 61.2, "sid": 41.0, "ic": 22.4},
    "teacher": {"pr": 22.7, "ks": 95.1, "sid": 93.4, "ic": 81.2},
    "fithubert": {"pr": 36.8, "ks": 88.4, "sid": 79.2, "ic": 60.1},
    "fithubert_notr": {"pr": 35.1, "ks": 87.0, "sid": 80.3, "ic": 58.8},
    "distilhubert": {"pr": 30.4, "ks": 91.9, "sid": 86.6, "ic": 66.3},
}


def cost(name: str, params: tuple[int, int, int], macs: float, latency: float, of: str) -> dict[str, Any]:
    """One model's entry of profile.json, ratios against the model `of`."""
    trunk, readout, training_only = params
    reference = _PARAMS.get(of, (94_370_816, 0, 0))
    ratio = latency / _LATENCY.get(of, 1.61)
    shares = {"front_end": 0.56, "projection": 0.01, "positional_conv": 0.06, "time_reduction": 0.01}
    shares |= {"transformer": 0.34, "readout": 0.02, "other": 0.0}
    return {
        "params": {"trunk": trunk, "readout": readout, "training_only": training_only, "total": trunk + readout},
        "parts": {p: {"params": round(trunk * s), "macs": round(10 * macs * s)} for p, s in shares.items()},
        "time_shares": shares,
        "macs_per_second": macs,
        "macs_ratio": macs / _MACS.get(of, 7.41e9),
        "latency_seconds": {"1": latency * 0.12, "5": latency * 0.5, "10": latency, "20": latency * 2.1},
        "rtf_by_seconds": {"1": latency * 0.12, "5": latency * 0.1, "10": latency / 10, "20": latency * 0.105},
        "rtf": latency / 10,
        "size_ratio": (trunk + readout) / sum(reference[:2]),
        "latency_ratio": ratio,
        "latency_ratio_ci": [ratio * 0.97, ratio * 1.04],
        "latency_ratio_by_seconds": {"10": {"median": ratio, "low": ratio * 0.97, "high": ratio * 1.04}},
        "weight_bytes": 4 * (trunk + readout),
        "peak_memory_bytes": 4 * (trunk + readout) + 90_000_000,
        "fingerprint": digest(name),
    }


def profile() -> dict[str, Any]:
    """profile.json."""
    machine = {"processor": "Example CPU @ 2.60GHz", "cores": 2, "torch": "2.14.1"}
    common = {"reference_seconds": 10.0, "threads": 2, "machine": machine}
    paper = {
        "hubert_base": cost("hubert_base", (94_370_816, 0, 0), 7.41e9, 1.61, "hubert_base"),
        "fithubert": cost("fithubert", (21_200_096, 830_688, 9_137_568), 1.436e9, 0.58, "hubert_base"),
        "distilhubert": cost("distilhubert", (23_492_992, 0, 3_540_000), 3.49e9, 0.92, "hubert_base"),
    }
    return {
        "models": {n: cost(n, _PARAMS[n], _MACS[n], _LATENCY[n], "teacher") for n in MODELS},
        "paper_size": {"models": paper, "reference": "hubert_base", "rounds": 3, **common},
        "reference": "teacher",
        "rounds": 10,
        "seconds": 81.2,
        **common,
    }


def distill(student: str) -> dict[str, Any]:
    """distill/{student}.json with a curve of ten evaluations."""
    layers = (4, 8, 12) if student == "distilhubert" else tuple(range(1, 13))
    curve = []
    for index in range(10):
        losses = {n: 0.2 + 0.04 * n + (0.5 - 0.02 * n) * math.exp(-index / (2 + n / 6)) for n in layers}
        loss = losses[12] + 0.1 * sum(losses[n] for n in layers[:-1])
        curve.append(
            {
                "update": 200 * (index + 1),
                "audio_seconds": 6000.0 * (index + 1),
                "seconds": 21.4 * (index + 1),
                "train_loss": round(loss * 0.97, 4),
                "dev_loss": round(loss, 4),
                "layer_losses": {f"{n}-{n}": round(value, 4) for n, value in losses.items()},
            }
        )
    return {
        "recipe": "fithubert",
        "params": {"trunk": 1_371_160, "readout": 52_152, "training_only": 0, "unused_in_reference": 28_920},
        "wait_share": 0.01,
        "updates": 2000,
        "best_update": 2000,
        "best_dev_loss": curve[-1]["dev_loss"],
        "audio_hours": 16.7,
        "end": "finished",
        "init": "teacher_layers" if student == "distilhubert" else "cut_teacher",
        "readout": "layers" if student == "distilhubert" else "last",
        "curve": curve,
        "seconds": 214.0,
        "fingerprint": "5b1e" * 8,
    }


def superb(model: str, task: str) -> dict[str, Any]:
    """One task of superb/{model}.json."""
    value = _SCORES[model][task]
    metric = "per" if task == "pr" else "acc"
    layers = 1 if model in ("fbank", "fithubert", "fithubert_notr") else 4 if model == "distilhubert" else 13
    weights = [math.exp(-((i - layers * 0.7) ** 2) / 12) for i in range(layers)]
    return {
        "model": model,
        "task": task,
        "protocol": "mini",
        "metrics": {metric: value},
        "intervals": {metric: [value - 1.3, value + 1.4]},
        "seed_deviation": {metric: 0.0},
        "num_dev": 100,
        "num_test": 120,
        "seeds": [1],
        "layer_weights": [w / sum(weights) for w in weights],
        "chance": {metric: 100.0 if task == "pr" else 8.3},
        "learning_rate": 1e-3,
        "seconds": 14.2,
    }


def prepare() -> dict[str, Any]:
    """prepare.json of a corpus with two recordings that could not be used."""
    return {
        "source": "synthetic",
        "fingerprint": "c0ffee" * 5 + "c0",
        "utterances": 1592,
        "hours": 1.06,
        "speakers": 48,
        "splits": {
            "train": {"utterances": 1204, "hours": 0.82, "speakers": 40},
            "dev": {"utterances": 152, "hours": 0.1, "speakers": 40},
            "test": {"utterances": 156, "hours": 0.1, "speakers": 40},
            "verification": {"utterances": 80, "hours": 0.04, "speakers": 8},
        },
        "skipped": [
            {"path": "session3/notes.wav", "reason": "not audio"},
            {"path": "session3/empty.wav", "reason": "empty"},
        ],
        "seconds": 41.5,
    }


def sweep() -> dict[str, Any]:
    """sweep.json of three trials, one of them beaten by another and one stopped early."""
    points = []
    for number, (pr, macs, on_front) in enumerate(((44.0, 90e6, True), (52.5, 95e6, False), (None, 60e6, False))):
        costs = {"macs_per_second": macs, "params": macs / 100, "latency_ratio": macs / 3e8}
        points.append({
            "name": f"sweep_{number:03d}",
            "on_front": on_front,
            "choices": {"depth": 4 + number, "width": 96},
            "values": {} if pr is None else {"pr": pr, "macs_per_second": macs},
            "metrics": costs,
            "curve": [[25, 0.9], [50, 0.8]],
        })  # fmt: skip
    return {
        "study": "default",
        "objectives": ["pr", "macs_per_second"],
        "choices": ["depth", "width"],
        "points": points,
        "labels": {
            "pr": ["Phoneme recognition, dev, %", True],
            "macs_per_second": ["multiply-accumulates per second of audio", True],
        },
        "importance": {},
    }


def ablation(variants: dict[str, float], comparisons: dict[str, Any], seeds: list[int]) -> dict[str, Any]:
    """ablation/{name}.json of `variants` with their latencies."""
    costs = {"params": 1_420_000, "macs_per_second": 92e6, "train_seconds": 38.0, "audio_hours": 0.39}
    costs |= {"size_ratio": 0.25, "macs_ratio": 0.22}
    reduction = {"kind": "conv1d", "factor": 2, "before_layer": 0, "drop_last_frame": False}
    trial = {"dev_loss": 0.8, "curve": [[100, 0.8]], "tasks": {}, "parameters": 1_420_000, "macs_per_second": 92e6}
    trial |= {"updates": 100, "audio_hours": 0.39, "train_seconds": 38.0, "seconds": 40.0}
    return {
        "of": "fithubert",
        "updates": 100,
        "seeds": seeds,
        "variants": {
            name: {**costs, "time_reduction": reduction, "latency_ratio": share, "latency_ratio_ci": [share, share]}
            for name, share in variants.items()
        },
        "trials": [{**trial, "variant": name, "seed": seed} for seed in seeds for name in variants],
        "comparisons": comparisons,
        "profile": {"rounds": 2, "threads": 2, "seconds": 10.0},
        "seconds": 90.0,
    }


def write_score(reports: Path, model: str, task: str, /, **changes: Any) -> None:
    """Change one score in superb/{model}.json, with resamples around its values; no `changes` delete it."""
    path = reports / "metrics" / "superb" / f"{model}.json"
    tasks = json.loads(path.read_text())["tasks"] if path.exists() else {}
    values = {**tasks.pop(task, {"metrics": {}}), **changes, "task": task, "model": model}
    scores = ModelScores.from_json({"model": model, "tasks": {**tasks, task: values} if changes else tasks})
    scores.write(path)
    drawn = {name: _resample(score) for name, score in scores.tasks.items()}
    write_resamples(replace(scores, tasks=drawn), reports / "resamples" / f"{model}.npz")


def _resample(score: SuperbMetrics) -> SuperbMetrics:
    """Resamples of dev and test: noise that all models of a task share, and some of the model's own."""
    resamples = {}
    for name, value in score.metrics.items():
        for split in ("dev", "test"):
            shared, own = (
                np.random.default_rng(list(f"{seed}{split}".encode())).normal(size=1000)
                for seed in (score.task, score.task + score.model)
            )
            resamples[f"{split}/{name}"] = tuple(value + 0.6 * shared + 0.3 * own)
    return replace(score, resamples=resamples)


def write_metrics(reports: Path) -> None:
    """All of it below `reports`, but for the ablation.

    One task is not scored for lack of labels, one model's last task has not run.
    """
    files: dict[str, Any] = {
        "prepare": prepare(),
        "profile": profile(),
        "teacher": {
            "source": "mini",
            "name": "mini",
            "fingerprint": "7eac" * 8,
            "layers": 12,
            "width": 192,
            "params": 5_212_000,
            "probe": {
                "fbank": 48.1,
                "layers": {str(n): 64.0 - (n - 8) ** 2 / 5 for n in range(13)},
                "untrained": {str(n): 44.0 - n / 3 for n in range(13)},
                "train_utterances": 24,
                "dev_utterances": 8,
            },
            "seconds": 6.1,
        },
        "cache": {
            "codec": "int8",
            "model": "teacher",
            "fingerprint": "cac4e" * 6 + "00",
            "utterances": 1356,
            "audio_seconds": 3312.0,
            "bytes": 402_000_000,
            "bytes_per_audio_hour": 437_000_000.0,
            "relative_error": 0.0061,
            "layers": {},
            "splits": {},
            "seconds": 52.0,
        },
    }
    files["sweep"] = sweep()
    per = {str(n): {"dev": 30.0 - n, "test": 31.0 - n, "interval": [29.5 - n, 32.5 - n]} for n in range(13)}
    files["depth"] = {"layers": per, "best_layer": 12, "seeds": [1], "seconds": 80.0}
    files |= {f"distill/{student}": distill(student) for student in STUDENTS}
    for name, values in files.items():
        write_json(reports / "metrics" / f"{name}.json", values)
    for model in MODELS:
        for task in ("pr", "ks", "sid"):
            write_score(reports, model, task, **superb(model, task))
        write_score(reports, model, "ic", reason="no utterance with an intent in the train split")
    write_score(reports, "distilhubert", "sid")
