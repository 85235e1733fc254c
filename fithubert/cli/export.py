from pathlib import Path
from typing import Annotated

import typer

from fithubert.cli.options import no_stage, options
from fithubert.errors import UserError


def export(
    student: Annotated[str, typer.Argument(help="A name in artifacts/students, or the folder of a student.")],
    to: Annotated[str, typer.Option(help="`onnx`, `huggingface`, `s3prl` or `mlflow`.")],
    out: Annotated[Path | None, typer.Option(help="A folder that is new or empty.")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="With onnx: also write a graph in int8.")] = False,
    register: Annotated[
        str | None, typer.Option(metavar="NAME", help="With mlflow: the name in MLflow's model registry.")
    ] = None,
) -> None:
    """Write a student for use elsewhere, with the same output as here.

    `onnx` is a graph for any batch and length, checked against torch. With `--int8`, the error of the int8 graph is
    measured on the corpus of the workspace. `huggingface` is for AutoModel.from_pretrained with trust_remote_code,
    instead of HubertModel. `s3prl` is an upstream that s3prl runs unmodified, with a launcher. `mlflow` is for
    mlflow.pyfunc.load_model and `mlflow models serve`. With `--register` the student enters the model registry of the
    tracking store as `models:/NAME/VERSION`, and `--out` is optional. All but onnx contain the student's source and do
    not need fithubert.

    Example: `fithubert export fithubert --to onnx --out build/onnx`
    """
    with no_stage():
        from fithubert.stages.export import describe_int8
        from fithubert.stages.export import export as run
        from fithubert.stages.export import register as run_register
        from fithubert.workspace import Workspace

        if register is not None and to != "mlflow":
            raise UserError(f"--register works with --to mlflow, not with --to {to}")
        if out is None and register is None:
            raise UserError("name a folder that is new or empty with --out")
        workspace = Workspace(options.workspace)
        if out is not None:
            done = run(workspace, student, to, out, int8)
            print(f"{out}: {done['name']} {done['fingerprint']}, {done['layers']} states, {done['width']} wide")
            if int8:
                print(describe_int8(done))
            if done.get("int8", {}).get("float32"):
                print(f"int8: in float32 for the sake of the errors: {', '.join(done['int8']['float32'])}")
        if register is not None:
            print(f"models:/{register}/{run_register(workspace, student, register)}")
