from typing import Annotated

import typer

from fithubert.cli.options import no_stage, options


def plan(
    hours: Annotated[float, typer.Option(min=1e-3, help="Hours of speech.")],
    teacher: Annotated[str, typer.Option(help="`hubert_base` (its shape only), or any teacher.")] = "hubert_base",
    student: Annotated[str, typer.Option(help="A recipe at full size.")] = "fithubert",
    codec: Annotated[
        str | None, typer.Option(help="The codec to compare with live targets; default: the fastest.")
    ] = None,
    gpus: Annotated[int, typer.Option(help="GPUs that share the work; 0: the CPU of this machine, measured.")] = 0,
    epochs: Annotated[float, typer.Option(help="Passes over all the speech (the paper: 100).")] = 100.0,
    updates: Annotated[int | None, typer.Option(help="Instead of --epochs: updates of --batch-seconds.")] = None,
    batch_seconds: Annotated[float, typer.Option(help="Audio of one update, over all devices.")] = 295.0,
    teacher_speed: Annotated[
        float | None, typer.Option(help="Teacher: seconds of audio per second and device, if known.")
    ] = None,
    student_speed: Annotated[float | None, typer.Option(help="The same for updates of the student.")] = None,
    disk_speed: Annotated[float | None, typer.Option(help="MB/s that all ranks share; default: measured here.")] = None,
    gpu_tflops: Annotated[float, typer.Option(help="Assumed TFLOP/s of a GPU if no speed is given.")] = 20.0,
) -> None:
    """Estimate bytes, extraction and training time of a distillation, for every codec and for live targets.

    Measures this machine for a few seconds, and prints which figures are measured, given or assumed. A CPU cannot
    predict a GPU: give `--teacher-speed` and `--student-speed` as soon as you know them.

    Example: `fithubert plan --hours 960 --gpus 8`
    """
    with no_stage():
        from fithubert.profile.plan import KnownSpeeds, PlannedRun
        from fithubert.profile.plan import plan as run
        from fithubert.report.table import print_table
        from fithubert.training.progress import progress_line

        passes = epochs if updates is None else updates * batch_seconds / 3600 / hours
        planned = PlannedRun(hours, teacher, student, codec, gpus, passes, options.workspace)
        done = run(
            planned, KnownSpeeds(teacher_speed, student_speed, disk_speed, gpu_tflops), progress_line("measuring")
        )
        print_table(done.rows)
        print(f"{done.verdict}\n\n" + "\n".join(done.sources))
