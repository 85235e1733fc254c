"""The charts of the page that need no script: training curves, the phone probe and layer weights."""

from collections.abc import Mapping
from typing import Any

from fithubert.report.curves import Training, read_layer_weights, read_probe, read_training
from fithubert.report.gather import Metrics
from fithubert.report.summary import ReportPlan
from fithubert.report.svg import Line, line_chart
from fithubert.tasks import task_info


def training_charts(metrics: Metrics, plan: ReportPlan) -> list[dict[str, Any]]:
    """Per student its dev loss and the loss of each head by update; `charts` empty where it has not been trained."""
    found = []
    for student in dict.fromkeys([*plan.students, *metrics.distill]):
        values = metrics.distill.get(student)
        if values is None:
            found.append({"student": student, "charts": [], "facts": []})
            continue
        training = read_training(student, values)
        loss = line_chart(_loss_lines(training), "update", "loss", f"Loss of {student} by update, train and dev")
        about_heads = f"Dev loss of each head of {student} by update"
        hints = line_chart(_head_lines(training), "update", "hint loss", about_heads)
        found.append({"student": student, "charts": [c for c in (loss, hints) if c], "facts": _training_facts(values)})
    return found


def _loss_lines(training: Training) -> list[Line]:
    train = Line("train", training.train_loss, "var(--quiet)", dashed=True, label="train")
    dev = Line("dev", training.dev_loss, "var(--accent)", label="dev")
    return [train, dev] if training.train_loss else [dev]


def _head_lines(training: Training) -> list[Line]:
    """One line a head, the deeper the darker; the first and the last are named."""
    low, top = min(training.hints, default=1), max(training.hints, default=1)
    lines = []
    for layer, points in training.hints.items():
        colour = _ramp((layer - low) / ((top - low) or 1))
        label = f"layer {layer}" if layer in (low, top) else None
        lines.append(Line(f"teacher layer {layer}", points, colour, label=label))
    return lines


def probe_chart(metrics: Metrics, colours: Mapping[str, str], plan: ReportPlan) -> str:
    """The teacher's phone probe by layer against filter banks and the untrained network; empty where there is none."""
    probe = read_probe(metrics)
    if probe is None:
        return ""
    lines = [Line("teacher", probe.teacher, colours[plan.teacher], label="teacher")]
    if probe.untrained:
        lines.append(Line("untrained", probe.untrained, "var(--hue-1)", dashed=True, label="untrained"))
    if probe.fbank is not None:
        ends = (probe.teacher[0][0], probe.teacher[-1][0])
        level = tuple((x, probe.fbank) for x in ends)
        lines.append(Line("filter banks", level, colours[plan.baseline], dashed=True, label="filter banks"))
    best = max(probe.teacher, key=lambda point: point[1])
    description = f"Phone accuracy of a linear probe by teacher layer; best {best[1]:.1f} % at layer {best[0]:.0f}"
    return line_chart(lines, "layer", "frames right, %", description, whole_x=True)


def layer_strips(metrics: Metrics, summary: Mapping[str, Any], plan: ReportPlan) -> list[dict[str, Any]]:
    """Per task the learnt weight of every hidden state, for the models that have several."""
    strips = []
    for task in summary["tasks"]:
        weights = read_layer_weights(metrics, list(summary["models"]), task)
        if weights:
            widest = max(len(w) for w in weights.values())
            rows = [(name, [(w, w / max(of_model)) for w in of_model]) for name, of_model in weights.items()]
            strips.append({"task": task_info(task), "layers": widest, "rows": rows})
    return strips


def _training_facts(values: Mapping[str, Any]) -> list[str]:
    facts = []
    if values.get("best_update") is not None:
        facts.append(f"best at update {values['best_update']:,} of {values.get('updates', values['best_update']):,}")
    if values.get("best_dev_loss") is not None:
        facts.append(f"dev loss {values['best_dev_loss']:.4g}")
    if values.get("audio_hours"):
        facts.append(f"{values['audio_hours']:.1f} h of audio seen")
    if values.get("end") == "early_stop":
        facts.append("stopped early")
    return facts


def _ramp(share: float) -> str:
    """The colour of a head by depth: from pale at the first layer to the accent at the last."""
    return f"color-mix(in oklab, var(--accent) {20 + 80 * share:.0f}%, var(--ramp))"
