"""A student of any teacher from a folder of recordings: the stages in order, each skipped if its metrics exist."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import yaml

from fithubert.config.params import Params, load_params
from fithubert.data.listing import find_recordings, name_formats
from fithubert.devices import choose_device
from fithubert.distill.targets import open_targets
from fithubert.errors import UserError
from fithubert.export.find import find_student
from fithubert.export.folder import describe_export, new_directory, write_readme
from fithubert.export.hub import open_hub, push_folder
from fithubert.files import atomic_file, check_replaceable, digest_json, only_writer, remove_leftovers
from fithubert.frames import SAMPLE_RATE_HZ
from fithubert.importers import load_teacher
from fithubert.models.hubert import PROJECTED_LAYER, HubertTeacher
from fithubert.models.macs import count_macs
from fithubert.models.recipes import resolve
from fithubert.models.weights import count_parameters, released_counts
from fithubert.profile.compression import STUDENT, CompressOptions, measure_spread, plan_params, plan_training
from fithubert.records import CompressJob, CompressMetrics, DistillMetrics, SpeakerScores
from fithubert.stages.cache import cache
from fithubert.stages.distill import distill
from fithubert.stages.export import describe_errors, describe_speakers, export
from fithubert.stages.prepare import prepare
from fithubert.stages.profile import profile
from fithubert.stages.report import report
from fithubert.stages.teacher import load_prepared
from fithubert.stages.teacher import teacher as write_teacher
from fithubert.superb.probe import choose_recordings, identify_speakers
from fithubert.training.progress import count_passes, progress_line
from fithubert.workspace import Workspace

_JOB, _PARAMS = "compress.json", "params.yaml"
#: Multiply-accumulates are counted on so much speech.
_COUNTED_SECONDS = 10


def compress(options: CompressOptions) -> CompressMetrics:
    """Make a student of `options.teacher` from `options.recordings` in `options.out`, and print every step.

    A killed call continues where it was, with the parameters that were planned first. `out` then has `student`, its
    `params.yaml`, the workspace `work`, and, if requested, `student.onnx` and `huggingface`, which is also uploaded.
    Raises UserError, before anything is written, if the teacher or the size cannot be used, there are no recordings,
    the hub refuses, or `out` holds something else.
    """
    options.check()
    # Two hours later is too late to learn that the hub refuses the token.
    hub = None if options.hub_name is None else open_hub(options.hub_name)
    listed = _list_recordings(options.recordings, options.out)
    print(f"reading the teacher {options.teacher}", flush=True)
    loaded = load_teacher(options.teacher)
    if not isinstance(loaded, HubertTeacher):
        raise UserError(f"teacher {options.teacher!r}: has no layers to distil")
    if loaded.final_proj is not None and loaded.model.config.depth >= PROJECTED_LAYER:
        options = replace(options, keep=(PROJECTED_LAYER,))  # for the export to RVC
    metrics, base = _begin(options, loaded)
    job = CompressJob(loaded.fingerprint, listed, options.size, options.recipe, options.hours_budget, options.updates)
    workspace = Workspace(options.out / "work")
    with _claim(options.out, job):
        params = _provide_params(options, loaded, base, workspace)
        _run_stages(params, workspace)
        done = _finish(params, options, metrics, workspace)
    if hub is not None and options.hub_name is not None:
        print(f"on the hub: {push_folder(hub, options.hub_name, options.out / 'huggingface')}")
    return done


def _list_recordings(root: Path, out: Path) -> str:
    """A digest of the names, sizes and times of the recordings; raises UserError if there are none."""
    if not root.is_dir():
        raise UserError(f"{root}: not a folder of recordings")
    source, target = root.resolve(), out.resolve()
    if target.is_relative_to(source) or source.is_relative_to(target):
        raise UserError(f"{root}: the recordings and --out {out} contain one another; name another folder with --out")
    paths = find_recordings(root).paths
    if not paths:
        raise UserError(f"{root}: holds no recordings ({name_formats()})")
    stats = [(path, (root / path).stat()) for path in paths]
    return digest_json([[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats])


def _begin(options: CompressOptions, teacher: HubertTeacher) -> tuple[CompressMetrics, Params]:
    """Print what will be made; the metrics that are known before, and parameters for the corpus."""
    shape = teacher.model.config
    count = count_parameters(teacher.model)
    params = plan_params(shape, count, options, "live", options.updates or 0)
    student = params.students[STUDENT]
    config = resolve(student.recipe, student.shape)
    samples = _COUNTED_SECONDS * SAMPLE_RATE_HZ
    ours, theirs = (sum(count_macs(model, samples).values()) for model in (config, shape))
    parameters = released_counts(config).total
    print(f"teacher {teacher.name}: {shape.depth} layers, {shape.width} wide, {count:,} parameters")
    print(f"student {student.recipe}: {config.depth} layers, {config.width} wide, {parameters:,} parameters")
    shares = f"{parameters / count:.1%} of the teacher's parameters, {ours / theirs:.1%} of its multiply-accumulates"
    print(f"that is {shares}", flush=True)
    return CompressMetrics(teacher.name, "", parameters, count, ours, theirs, 0, {}), params


@contextmanager
def _claim(out: Path, job: CompressJob) -> Iterator[None]:
    """A block in which `out` belongs to this process and to `job`; raises UserError if it is not free.

    Until its parameters are written, a job may still change.
    """
    path = out / _JOB
    remove_leftovers(out)
    if not path.is_file():
        check_replaceable(out, (".writer",))
    with only_writer(out, "a compression"):
        if not (out / _PARAMS).is_file():
            job.write(path)
        for name, value in vars(CompressJob.read(path)).items():
            if getattr(job, name) != value:
                what = f"another {name}" if isinstance(value, str) else f"{name} {value}"
                raise UserError(f"{out}: was begun with {what}; give the same, or another folder with --out")
        yield


def _provide_params(options: CompressOptions, teacher: HubertTeacher, base: Params, workspace: Workspace) -> Params:
    """The corpus and the parameters: those of the first call, if they were written."""
    path = options.out / _PARAMS
    if not path.is_file():
        print("reading the recordings", flush=True)
        done = prepare(base, workspace)
        for entry in done.skipped:
            print(f"skipped {entry.path}: {entry.reason}")
        print("".join(f"{note}\n" for note in done.notes or ()), end="")
        print("measuring how fast this machine is", flush=True)
        corpus, show = workspace.load_manifest(), progress_line("measuring")
        params, lines = plan_training(options, teacher.model.config, count_parameters(teacher.model), corpus, show)
        print("\n".join(lines), flush=True)
        _write_params(path, params, workspace)
    params, copy = load_params(path), options.write_params
    if copy is not None and not copy.exists():
        _write_params(copy, params, workspace)
    elif copy is not None and load_params(copy) != params:
        raise UserError(f"--write-params {copy}: holds other parameters; name a new file")
    return params


def _write_params(path: Path, params: Params, workspace: Workspace) -> None:
    text = yaml.safe_dump(params.model_dump(mode="json", exclude_unset=True), sort_keys=False, width=120)
    note = f"# Written by `fithubert compress`; use it with --params, and --workspace {workspace.root}.\n"
    with atomic_file(path) as temporary:
        temporary.write_text(note + text, encoding="utf-8")


def _run_stages(params: Params, workspace: Workspace) -> None:
    """Every stage whose metrics do not exist yet: they are what a stage writes last."""
    if not workspace.metrics("teacher").is_file():
        print("writing the teacher", flush=True)
        write_teacher(params, workspace)
    if params.distill.targets == "cached" and not workspace.metrics("cache").is_file():
        print("caching the teacher's hidden states", flush=True)
        cache(params, workspace)
    if not workspace.metrics(f"distill@{STUDENT}").is_file():
        print("distilling" if params.distill.updates else "cutting the student from the teacher", flush=True)
        distill(params, workspace, STUDENT)
    if not workspace.metrics("profile").is_file():
        print("measuring the cost", flush=True)
        profile(params, workspace)


def _finish(params: Params, options: CompressOptions, known: CompressMetrics, workspace: Workspace) -> CompressMetrics:
    """What is kept of the teacher, the student's folder, its export and the page."""
    path, student = workspace.metrics("compress"), options.out / "student"
    trained = DistillMetrics.read(workspace.metrics(f"distill@{STUDENT}"))
    if trained.updates > trained.best_update == 0:
        print("training did not improve the student, which stays as it was cut: give more recordings or --hours-budget")
    if not path.is_file():
        print("measuring what is kept of the teacher", flush=True)
        replace(
            known,
            fingerprint=trained.fingerprint,
            updates=trained.best_update,
            relative_error=_measure_errors(params, workspace, trained),
            speakers=_measure_speakers(params, workspace),
        ).write(path)
    done = CompressMetrics.read(path)
    for layer, error in sorted(done.relative_error.items()):
        print(f"layer {layer}: relative error {error:.1%} on held-out recordings")
    if done.speakers is not None:
        print(describe_speakers(done.speakers))
    if not student.exists():
        print("writing the student", flush=True)
        _write_student(student, done, workspace)
    graph = options.out / "student.onnx"
    if options.onnx and not graph.exists():
        print("writing the ONNX graph, comparing it with torch and timing it", flush=True)
        export(workspace, STUDENT, "onnx", graph)
    written = options.out / "huggingface"
    if options.hub_name is not None and not written.exists():
        export(workspace, STUDENT, "huggingface", written, hub_name=options.hub_name)
    if not (workspace.reports / "index.html").is_file():
        print("writing the report", flush=True)
        report(params, workspace)
    return done


def _measure_errors(params: Params, workspace: Workspace, trained: DistillMetrics) -> dict[int, float]:
    """Teacher layer -> the relative error of its head on dev, from the losses of the update that was kept."""
    best = next(point for point in trained.curve if point.update == trained.best_update)
    losses = {head.teacher_layer: loss for head, loss in best.layer_losses.items()}
    data = open_targets(workspace, params.distill.targets, params.cache, params.teacher.precision)
    # The same utterances as those of the losses.
    sample = data.sample_dev(params.distill.dev_seconds)
    spread = measure_spread(data.dev, sample, list(losses), choose_device(params.teacher.device))
    return {layer: (loss / spread[layer]) ** 0.5 for layer, loss in losses.items()}


def _measure_speakers(params: Params, workspace: Workspace) -> SpeakerScores | None:
    """How well both models tell apart the speakers that folders name; None if there are too few."""
    manifest = workspace.load_manifest()
    chosen = choose_recordings(manifest)
    if chosen is None:
        return None
    device = choose_device(params.teacher.device)
    models = (load_prepared(params, workspace), find_student(workspace, STUDENT).to(device))
    recordings = len(models) * sum(map(len, chosen))
    finish = count_passes(recordings, progress_line("telling speakers apart"))
    found = [identify_speakers(model, manifest, *chosen, finish) for model in models]
    return SpeakerScores(found[0], found[1], len(chosen[1]), len({u.speaker for u in chosen[0]}))


def _write_student(folder: Path, done: CompressMetrics, workspace: Workspace) -> None:
    """The student with its model card."""
    readout = find_student(workspace, STUDENT)
    words = {
        **describe_export(readout),
        "teacher": done.teacher,
        "parameters": f"{done.parameters:,}",
        "share": f"{done.parameters / done.teacher_parameters:.1%}",
        "macs": f"{done.macs / done.teacher_macs:.1%}",
        "updates": f"{done.updates:,}",
        "errors": describe_errors(done),
        "speakers": f"\n{describe_speakers(done.speakers)}.\n" if done.speakers else "",
    }
    with new_directory(folder) as aside:
        for name in ("config.json", "model.safetensors"):
            shutil.copyfile(workspace.student(STUDENT) / name, aside / name)
        write_readme("student", aside, readout, words)
