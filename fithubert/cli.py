"""The `fithubert` command: parse, call, print. Every command does what the DVC stage of its name does."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fithubert.errors import exit_on_user_error

try:
    import rich  # noqa: F401  (Typer prints its help with it)
    import typer
except ImportError:
    sys.exit("error: the command line needs Typer and rich: pip install fithubert[cli]")

app = typer.Typer(
    help="Distil HuBERT-family models into thin, deep, fast students, and measure what is left of the teacher.\n\n"
    "Without DVC these commands do what the stages of `dvc repro` do, on the same params.yaml and folders.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


@dataclass
class _Global:
    """The options before the command."""

    params: Path = Path("params.yaml")
    workspace: Path = Path()
    changes: tuple[str, ...] = ()
    debug: bool = False


_options = _Global()


@app.callback()
def main_options(
    params: Annotated[Path, typer.Option(help="The parameters of all stages.")] = Path("params.yaml"),
    workspace: Annotated[Path, typer.Option(help="The folder that holds data/, artifacts/ and reports/.")] = Path(),
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Another value for a parameter: --set distill.updates=500."),
    ] = None,
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command."""
    _options.params, _options.workspace, _options.debug = params, workspace, debug
    _options.changes = tuple(change or ())


@contextmanager
def _stage(*changes: str) -> Iterator[tuple[Any, Any]]:
    """The checked parameters with the command's own changes, and the workspace; errors become one line."""
    with exit_on_user_error(_options.debug):
        from fithubert.config.params import load_params
        from fithubert.stages.workspace import Workspace

        yield load_params(_options.params, (*changes, *_options.changes)), Workspace(_options.workspace)


@app.command()
def prepare(
    folder: Annotated[
        Path | None, typer.Argument(help="A folder of recordings (wav, flac, ogg, mp3; nested); else `data` of params.")
    ] = None,
    transcripts: Annotated[Path | None, typer.Option(help="Lines of `path<TAB>text` for the folder.")] = None,
    source: Annotated[str | None, typer.Option(help="A published corpus: librispeech, voxceleb1, snips ...")] = None,
    path: Annotated[Path | None, typer.Option(help="Where it lies, or the folder around it; else `corpora`.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch what is missing of the corpus first.")] = False,
) -> None:
    """Write the corpus: the embedded one, a folder of recordings, or a published corpus, which stays where it is.

    Files of the folder that cannot be used are listed and skipped. Downloads (librispeech, speech_commands, quesst14)
    go on where they were interrupted. `--set data.KEY=VALUE` chooses a part of a published corpus: `data.fold=2`.
    """
    changes = []
    if source is not None:
        changes.append(f"data={json.dumps({'source': source, 'path': str(path or 'corpora')})}")
    elif path is not None:
        changes.append(f"data.path={json.dumps(str(path))}")
    if folder is not None:
        changes.append(f"data={json.dumps({'source': 'folder', 'path': str(folder)})}")
    if transcripts is not None:
        changes.append(f"data.transcripts={json.dumps(str(transcripts))}")
    with _stage(*changes) as (params, workspace):
        from fithubert.stages.prepare import prepare as run

        done = run(params, workspace, download)
        print(f"{done['utterances']} utterances, {done['hours']:.2f} h, {done['speakers']} speakers")
        for entry in done["skipped"]:
            print(f"skipped {entry['path']}: {entry['reason']}")


@app.command()
def pretrain(
    recipe: Annotated[Path, typer.Argument(help="Parameters of the pre-training, as experiments/pretrain/mini.yaml.")],
    out: Annotated[Path, typer.Option(help="Where checkpoints and the finished teacher go; resumes what is there.")],
    device: Annotated[str, typer.Option(help="`auto`, `cpu` or `cuda`.")] = "auto",
) -> None:
    """Pre-train a teacher with HuBERT's objective: k-means units, masked prediction, iterations. Resumes.

    On several processes or GPUs: `torchrun --nproc-per-node 2 -m fithubert.cli pretrain RECIPE --out DIR`.
    """
    with exit_on_user_error(_options.debug):
        from fithubert.stages.pretrain import pretrain as run

        print(f"teacher: {run(recipe, out, device)}")


@app.command()
def teacher(
    spec: Annotated[
        str | None,
        typer.Argument(
            help="`mini`, `hf:OWNER/NAME`, `hf:DIRECTORY`, `torchaudio:HUBERT_BASE`, a fairseq or s3prl file, or the "
            "folder of a teacher; else `teacher` of params."
        ),
    ] = None,
) -> None:
    """Write the teacher in its canonical form (config.json + model.safetensors) to artifacts/teacher."""
    with _stage(*([f"teacher.source={json.dumps(spec)}"] if spec else [])) as (params, workspace):
        from fithubert.stages.teacher import teacher as run

        done = run(params, workspace)
        print(f"{done['name']}: {done['layers']} layers, {done['width']} wide, {done['params']:,} parameters")


@app.command()
def cache(
    codec: Annotated[
        str | None, typer.Option(help="`float16`, `int8` or `pca_int8`; else `cache.codec` of params.")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Check every page of the caches there are and write again what is damaged.")
    ] = False,
) -> None:
    """Write the teacher's hidden states of train and dev to data/cache; goes on where it was stopped."""
    if repair and codec:
        raise typer.BadParameter("a repair keeps the codec of the cache; leave out --codec or --repair")
    with _stage(*([f"cache.codec={codec}"] if codec else [])) as (params, workspace):
        from fithubert.stages.cache_teacher import cache_teacher as run

        done = run(params, workspace, repair)
        print(f"{done['bytes'] / 1e6:.0f} MB for train, relative error {done['relative_error']:.2g}")


@app.command()
def plan(
    hours: Annotated[float, typer.Option(min=1e-3, help="Hours of speech.")],
    teacher: Annotated[str, typer.Option(help="`hubert_base` (shape alone), or any teacher.")] = "hubert_base",
    student: Annotated[str, typer.Option(help="A recipe at full size.")] = "fithubert",
    codec: Annotated[str, typer.Option(help="The codec that is weighed against live targets.")] = "pca_int8",
    gpus: Annotated[int, typer.Option(help="GPUs that share the work; 0: this machine's CPU, measured.")] = 0,
    epochs: Annotated[float, typer.Option(help="Times that all the speech is heard (the paper: 100).")] = 100.0,
    updates: Annotated[int | None, typer.Option(help="In place of --epochs: updates of --batch-seconds.")] = None,
    batch_seconds: Annotated[float, typer.Option(help="Audio of one update, over all devices.")] = 288.0,
    teacher_speed: Annotated[float | None, typer.Option(help="Seconds of audio a second and device, if known.")] = None,
    student_speed: Annotated[float | None, typer.Option(help="The same of the student's updates.")] = None,
    disk_speed: Annotated[float | None, typer.Option(help="MB/s that all ranks share; else measured here.")] = None,
    gpu_tflops: Annotated[float, typer.Option(help="TFLOP/s a GPU is assumed to sustain, without a speed.")] = 20.0,
) -> None:
    """Say what a distillation will take: bytes, extraction, training, in every codec and with live targets.

    Measures this machine for a few seconds, and says what is measured, given and assumed. A CPU says nothing of a GPU:
    give `--teacher-speed` and `--student-speed` as soon as you know them.
    """
    with exit_on_user_error(_options.debug):
        from fithubert.report.terminal import print_table
        from fithubert.stages.plan import plan as run

        heard = epochs if updates is None else updates * batch_seconds / 3600 / hours
        speeds = (teacher_speed, student_speed, disk_speed, gpu_tflops)
        done = run(hours, teacher, student, codec, gpus, heard, _options.workspace, *speeds)
        print_table(done.rows)
        print(f"{done.verdict}\n\n" + "\n".join(done.sources))


@app.command()
def distill(
    student: Annotated[str, typer.Argument(help="An entry of `students` in params.")],
    updates: Annotated[int | None, typer.Option(help="Updates; else `distill.updates` of params.")] = None,
    targets: Annotated[str | None, typer.Option(help="`cached` or `live`; else `distill.targets` of params.")] = None,
) -> None:
    """Train one student on the teacher's hidden states; goes on from the last checkpoint where it was stopped."""
    changes = [f"distill.updates={updates}"] if updates is not None else []
    changes += [f"distill.targets={targets}"] if targets is not None else []
    with _stage(*changes) as (params, workspace):
        from fithubert.stages.distill import distill as run

        done = run(params, workspace, student)
        print(f"{student}: dev loss {done['best_dev_loss']:.4f} at update {done['best_update']} ({done['end']})")


@app.command()
def profile() -> None:
    """Measure parameters, MACs, latency and memory of the teacher and every student, timed in turn."""
    with _stage() as (params, workspace):
        from fithubert.stages.profile import profile as run

        for name, cost in run(params, workspace)["models"].items():
            print(
                f"{name}: {cost['params']['total']:,} parameters, {cost['latency_ratio']:.2f} of the teacher's latency"
            )


@app.command()
def superb(
    model: Annotated[str, typer.Argument(help="`fbank`, `teacher`, or an entry of `students` in params.")],
    task: Annotated[str, typer.Argument(help="An entry of `superb.tasks` in params: pr, ks, sid ...")],
    data: Annotated[Path | None, typer.Option(help="Prepare the task's own corpus from here first.")] = None,
    official: Annotated[bool, typer.Option("--official", help="By SUPERB's own protocol, not on a budget.")] = False,
    seeds: Annotated[int | None, typer.Option(min=1, help="Train with seeds 1 to N (official: 1337).")] = None,
) -> None:
    """Score one model on one SUPERB task; its features are extracted first where they are not there.

    `--set` says more of a corpus: data.lexicon (pr), data.fold and data.lists (er), data.labels (sd).
    """
    from fithubert.stages.superb import describe_score, describe_task

    with _stage(*describe_task(task, data, official, seeds)) as (params, workspace):
        from fithubert.stages.features import features
        from fithubert.stages.prepare import prepare as prepare_corpus
        from fithubert.stages.superb import superb as run

        if data is not None:
            prepare_corpus(params, workspace)
        features(params, workspace, model)
        done = run(params, workspace, model, task)
        scores = ", ".join(describe_score(done, name) for name in done["metrics"])
        print(f"{model} on {task}: {scores or done['reason']}")
        for departure in done.get("departures", ()):
            print(f"  not the official protocol: {departure}")


@app.command()
def leaderboard(
    model: Annotated[str, typer.Argument(help="A model that was scored on all ten tasks by the official protocol.")],
    workspaces: Annotated[list[Path], typer.Argument(help="The folders in which: one a corpus, for ER one a fold.")],
) -> None:
    """Print superb_s and the overall score of one model, as the leaderboard and the compression papers have them."""
    with exit_on_user_error(_options.debug):
        from fithubert.stages.leaderboard import leaderboard as run

        scored = run(model, workspaces)
        for task, metrics in scored.metrics.items():
            print(f"{task}: {', '.join(f'{name} {value:.2f}' for name, value in metrics.items())}")
        print(f"superb_s {scored.superb_s:.0f}, overall {scored.overall:.1f}")


@app.command()
def report() -> None:
    """Write reports/summary.json, the table and the page from everything measured so far."""
    with _stage() as (params, workspace):
        from fithubert.stages.report import report as run

        print(run(params, workspace).page)


@app.command()
def compare(
    summary: Annotated[Path | None, typer.Argument(help="A summary.json; else that of the workspace.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """Print the models side by side: size, speed, scores."""
    with exit_on_user_error(_options.debug):
        from fithubert.report.summary import compare_rows, load_summary
        from fithubert.report.terminal import print_table

        rows = compare_rows(load_summary(summary or _options.workspace / "reports" / "summary.json"))
        if as_json:
            print(json.dumps(rows, indent=2))
        else:
            print_table(rows)


@app.command(name="import")
def import_checkpoint(
    checkpoint: Annotated[Path, typer.Argument(help="A FitHuBERT .ckpt or a DistilHuBERT checkpoint.")],
    config: Annotated[Path | None, typer.Argument(help="The .yaml published beside a FitHuBERT .ckpt.")] = None,
    out: Annotated[Path, typer.Option(help="The folder of the student.")] = Path("artifacts/students/imported"),
) -> None:
    """Turn a checkpoint that the authors published into a student of this project, exactly."""
    with exit_on_user_error(_options.debug):
        from fithubert.student.checkpoint import save_student
        from fithubert.student.published import import_published

        student = import_published(checkpoint, config)
        save_student(student, out, record={"imported": checkpoint.name})
        print(f"{out}: {student.parameter_counts().trunk:,} parameters in the trunk")


@app.command()
def ui(port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 5000) -> None:
    """Open the tracked runs in MLflow's UI on 127.0.0.1, and print the address that compares the models."""
    with exit_on_user_error(_options.debug):
        from fithubert.tracking.ui import serve_ui

        serve_ui(_options.workspace, port)


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
