from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fithubert.cli.options import HopAlignedFrames, HubName, no_stage, options
from fithubert.errors import UserError

if TYPE_CHECKING:
    from fithubert.workspace import Workspace

_FRONT_END_ONLY = "--teacher and --hop-aligned work with --layout rvc, which needs --to onnx and --out only"


def export(
    student: Annotated[
        str, typer.Argument(help="A student: its name or folder, or `fithubert`; or a teacher (--layout, --task).")
    ],
    to: Annotated[str, typer.Option(help="`onnx`, `huggingface`, `s3prl` or `mlflow`.")],
    out: Annotated[Path | None, typer.Option(help="A folder that is new or empty.")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="With onnx: also write a graph in int8.")] = False,
    register: Annotated[
        str | None, typer.Option(metavar="NAME", help="With mlflow: the name in MLflow's model registry.")
    ] = None,
    hub_name: HubName = None,
    task: Annotated[
        str | None, typer.Option(help="With onnx: pr, ks, sid, er, ic or asv, with its trained head in the graph.")
    ] = None,
    layout: Annotated[str | None, typer.Option(help="With onnx: `rvc`, graphs as RVC reads them.")] = None,
    teacher: Annotated[str | None, typer.Option(help="With --layout: take final_proj from this teacher.")] = None,
    hop_aligned: HopAlignedFrames = False,
) -> None:
    """Write a student for use elsewhere, with the same output as here.

    `onnx` is a graph for any batch and length, checked against torch. With `--int8`, the error of the int8 graph is
    measured on the corpus of the workspace. `huggingface` is for AutoModel.from_pretrained with trust_remote_code,
    instead of HubertModel. `s3prl` is an upstream that s3prl runs unmodified, with a launcher. `mlflow` is for
    mlflow.pyfunc.load_model and `mlflow models serve`. With `--layout rvc` a student or a teacher becomes the front end
    of voice conversion: `vec-768-layer-12.onnx` (RVC v2) and `vec-256-layer-9.onnx` (v1, through the teacher's
    final_proj). With `--task` the graph of a student or a teacher ends with the head that `fithubert superb MODEL TASK`
    has trained, and `fithubert.load_probe(OUT)` calls it with a recording. With `--register` the student enters the
    model registry of the tracking store as `models:/NAME/VERSION`, and `--out` is optional. No export needs
    fithubert; all but onnx contain the student's source. With `--hub-name`, a huggingface export is uploaded with its
    model card, with the token of `hf auth login` or HF_TOKEN; a new repository is private.

    Example: `fithubert export fithubert --to onnx --out build/onnx`
    """
    with no_stage():
        from fithubert.export.hub import open_hub, push_folder
        from fithubert.stages.export import register as run_register
        from fithubert.workspace import Workspace

        if register is not None and to != "mlflow":
            raise UserError(f"--register works with --to mlflow, not with --to {to}")
        if out is None and register is None:
            raise UserError("name a folder that is new or empty with --out")
        if hub_name is not None and (to != "huggingface" or out is None):
            raise UserError("--hub-name works with --to huggingface and --out")
        hub = None if hub_name is None else open_hub(hub_name)
        workspace = Workspace(options.workspace)
        if task is not None:
            if to != "onnx" or int8 or layout is not None or teacher is not None or hop_aligned or out is None:
                raise UserError("--task works with --to onnx and --out only")
            _export_probe(workspace, student, task, out)
        elif layout is not None or teacher is not None or hop_aligned:
            if layout != "rvc" or to != "onnx" or int8 or out is None:
                raise UserError(_FRONT_END_ONLY)
            _export_front_end(workspace, student, out, teacher, hop_aligned)
        elif out is not None:
            _export_student(workspace, student, to, out, int8, hub_name)
            if hub is not None and hub_name is not None:
                print(f"on the hub: {push_folder(hub, hub_name, out)}")
        if register is not None:
            print(f"models:/{register}/{run_register(workspace, student, register)}")


def _export_student(workspace: "Workspace", name: str, to: str, out: Path, int8: bool, hub_name: str | None) -> None:
    from fithubert.stages.export import describe_int8
    from fithubert.stages.export import export as run

    done = run(workspace, name, to, out, int8, hub_name)
    print(f"{out}: {done['name']} {done['fingerprint']}, {done['layers']} states, {done['width']} wide")
    if int8:
        print(describe_int8(done))


def _export_probe(workspace: "Workspace", model: str, task: str, out: Path) -> None:
    from fithubert.stages.export import export_task

    probe = export_task(workspace, model, task, out)
    scores = ", ".join(f"{name} {value:.2f}" for name, value in probe.test.items())
    print(f"{out}: {task} of {probe.model} {probe.fingerprint}, {scores} on test")


def _export_front_end(workspace: "Workspace", model: str, out: Path, teacher: str | None, hop_aligned: bool) -> None:
    from fithubert.export.rvc import describe_graphs
    from fithubert.stages.export import export_front_end

    done = export_front_end(workspace, model, out, teacher, hop_aligned)
    print("\n".join([f"{out}: {done['name']} {done['fingerprint']}", *describe_graphs(done)]))
