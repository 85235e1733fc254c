"""Commands that make a student."""

from pathlib import Path
from typing import Annotated

import typer

from fithubert.cli.start import options, stage
from fithubert.errors import UserError, exit_on_user_error


def plan(
    hours: Annotated[float, typer.Option(min=1e-3, help="Hours of speech.")],
    teacher: Annotated[str, typer.Option(help="`hubert_base` (shape alone), or any teacher.")] = "hubert_base",
    student: Annotated[str, typer.Option(help="A recipe at full size.")] = "fithubert",
    codec: Annotated[str, typer.Option(help="The codec that is weighed against live targets.")] = "pca_int8",
    gpus: Annotated[int, typer.Option(help="GPUs that share an epoch; 0: this machine's CPU, measured.")] = 0,
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
    with exit_on_user_error(options.debug):
        from fithubert.profile.plan import plan as run
        from fithubert.report.terminal import print_table

        heard = epochs if updates is None else updates * batch_seconds / 3600 / hours
        speeds = (teacher_speed, student_speed, disk_speed, gpu_tflops)
        done = run(hours, teacher, student, codec, gpus, heard, options.workspace, *speeds)
        print_table(done.rows)
        print(f"{done.verdict}\n\n" + "\n".join(done.sources))


def distill(
    student: Annotated[str, typer.Argument(help="An entry of `students` in params.")],
    updates: Annotated[int | None, typer.Option(help="Updates; else `distill.updates` of params.")] = None,
    targets: Annotated[str | None, typer.Option(help="`cached` or `live`; else `distill.targets` of params.")] = None,
) -> None:
    """Train one student on the teacher's hidden states; goes on from the last checkpoint where it was stopped."""
    changes = [f"distill.updates={updates}"] if updates is not None else []
    changes += [f"distill.targets={targets}"] if targets is not None else []
    with stage(*changes) as (params, workspace):
        from fithubert.stages.distill import distill as run

        done = run(params, workspace, student)
        print(f"{student}: dev loss {done['best_dev_loss']:.4f} at update {done['best_update']} ({done['end']})")


def import_checkpoint(
    checkpoint: Annotated[Path, typer.Argument(help="A FitHuBERT .ckpt or a DistilHuBERT checkpoint.")],
    config: Annotated[Path | None, typer.Argument(help="The .yaml published beside a FitHuBERT .ckpt.")] = None,
    out: Annotated[Path, typer.Option(help="The folder of the student.")] = Path("artifacts/students/imported"),
) -> None:
    """Turn a checkpoint that the authors published into a student of this project, exactly."""
    with exit_on_user_error(options.debug):
        from fithubert.importers.published import import_published
        from fithubert.models.weights import save_student

        student = import_published(checkpoint, config)
        save_student(student, out, record={"imported": checkpoint.name})
        print(f"{out}: {student.parameter_counts().trunk:,} parameters in the trunk")


def ablation(name: Annotated[str, typer.Argument(help="An entry of `ablation` in params.")]) -> None:
    """Train the variants of a student side by side, several seeds each, and compare them."""
    with stage() as (params, workspace):
        from fithubert.report.terminal import print_table
        from fithubert.stages.ablation import ablation as run
        from fithubert.stages.ablation import comparison_rows

        print_table(comparison_rows(run(params, workspace, name)))


def export(
    student: Annotated[str, typer.Argument(help="A name in artifacts/students, or the folder of a student.")],
    to: Annotated[str, typer.Option(help="`onnx`, `huggingface`, `s3prl` or `mlflow`.")],
    out: Annotated[Path | None, typer.Option(help="A folder that is new or empty.")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="With onnx: a graph in int8 as well.")] = False,
    register: Annotated[
        str | None, typer.Option(metavar="NAME", help="With mlflow: the name in MLflow's model registry.")
    ] = None,
) -> None:
    """Write a student for use elsewhere. It then says what `load_student` and the read-out say here.

    `onnx` is a graph for any batch and length, checked against torch; int8 is faster and less exact, and its error is
    measured on the corpus of the workspace. `huggingface` is for AutoModel.from_pretrained with trust_remote_code,
    where HubertModel is used. `s3prl` is an upstream that s3prl runs unmodified, with a launcher. `mlflow` is for
    mlflow.pyfunc.load_model and `mlflow models serve`; with `--register` it enters the registry of the tracking store,
    where `models:/NAME/VERSION` finds it, and `--out` may be left out. All but onnx carry the student's source and need
    no fithubert where they are used.
    """
    with exit_on_user_error(options.debug):
        from fithubert.export.export import export as run
        from fithubert.export.export import register as run_register
        from fithubert.workspace import Workspace

        if register is not None and to != "mlflow":
            raise UserError(f"--register is for --to mlflow, not for {to}")
        if out is None and register is None:
            raise UserError("name a folder that is new or empty with --out")
        workspace = Workspace(options.workspace)
        if out is not None:
            done = run(workspace, student, to, out, int8)
            print(f"{out}: {done['name']} {done['fingerprint']}, {done['layers']} states, {done['width']} wide")
        if register is not None:
            print(f"models:/{register}/{run_register(workspace, student, register)}")
