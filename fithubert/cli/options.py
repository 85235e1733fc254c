"""The options that every command accepts, before or after its name; the checked parameters; the workspace."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from fithubert import __version__
from fithubert.errors import UserError, exit_on_user_error, printable

if TYPE_CHECKING:
    from fithubert.config.params import Params
    from fithubert.config.teacher import Device as DeviceName
    from fithubert.data.listing import Skipped
    from fithubert.models.speech_model import SpeechModel
    from fithubert.workspace import Workspace

#: Whether each option of every command takes a value.
GLOBAL_OPTIONS = {"--params": True, "--workspace": True, "--set": True, "--debug": False}

# Arguments that `features` and `units` share.
Audio = Annotated[
    list[Path],
    typer.Argument(help="Recordings (wav, flac, ogg, mp3, opus, aiff, caf, au), or folders that contain them."),
]
Model = Annotated[
    str,
    typer.Option(
        help="A student (its name here, or its folder), a student exported to onnx, the package's `fithubert` or "
        "`mini`, `teacher`, `fbank`, `hf:...`, `torchaudio:...`, a fairseq or s3prl file, or the folder of a teacher."
    ),
]
Device = Annotated[str, typer.Option(help="`auto`, `cpu` or `cuda`.")]
MaxSeconds = Annotated[
    float, typer.Option(min=0.025, help="Recordings up to this length run whole, longer ones in windows.")
]
WindowSeconds = Annotated[float, typer.Option(min=0.025, help="The length of a window of a longer recording.")]
ContextSeconds = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        help="More audio that the model gets on both sides of a window; default: what a student with context_frames "
        "needs for the same states as without windows, or 10 for a model that reads the whole recording.",
    ),
]
HubName = Annotated[
    str | None,
    typer.Option(
        metavar="OWNER/NAME", help="Also upload it for transformers to this repository of the Hugging Face hub."
    ),
]
HopAlignedFrames = Annotated[
    bool, typer.Option("--hop-aligned", help="Zeros at both ends: one frame for every 320 samples, as in spectrograms.")
]


@dataclass
class Options:
    """The values of the global options."""

    params: Path = Path("params.yaml")
    workspace: Path = Path()
    changes: tuple[str, ...] = ()
    debug: bool = False


options = Options()


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"fithubert {__version__}")
        raise typer.Exit


def read_options(
    params: Annotated[
        Path,
        typer.Option(metavar="FILE", help="The parameters of all stages; relative to this folder, not to --workspace."),
    ] = Path("params.yaml"),
    workspace: Annotated[
        Path, typer.Option(metavar="FOLDER", help="The folder that holds data/, artifacts/ and reports/.")
    ] = Path(),
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a parameter, as in --set distill.updates=500."),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Keep the values of the global options for the command."""
    options.params, options.workspace, options.debug = params, workspace, debug
    options.changes = tuple(change or ())


def move_to_front(arguments: Sequence[str]) -> list[str]:
    """`arguments` with the global options first, so that they may also follow the command."""
    moved: list[str] = []
    others: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            others += [argument, *rest]
        elif argument in GLOBAL_OPTIONS:
            moved.append(argument)
            value = next(rest, None) if GLOBAL_OPTIONS[argument] else None
            if value is not None:
                moved.append(value)
        elif argument.partition("=")[0] in GLOBAL_OPTIONS:
            moved.append(argument)
        else:
            others.append(argument)
    return moved + others


@contextmanager
def no_stage() -> Iterator[None]:
    """A command that reads no params.yaml: a mistake of the user ends the process with one line, as does `--set`."""
    with exit_on_user_error(options.debug):
        if options.changes:
            raise UserError(f"--set {options.changes[0]}: this command reads no parameters; leave --set out")
        yield


def to_changes(values: Mapping[str, object]) -> list[str]:
    """`KEY=VALUE` of every option that was given; None is an option that was not."""
    return [f"{key}={json.dumps(value)}" for key, value in values.items() if value is not None]


@contextmanager
def stage(*changes: str, needs_file: bool = True) -> Iterator[tuple["Params", "Workspace"]]:
    """The checked parameters, with the command's own `changes`, and the workspace.

    Without `needs_file`, a params.yaml that does not exist stands for the defaults. A mistake of the user ends the
    process with one line.
    """
    with exit_on_user_error(options.debug):
        from fithubert.workspace import Workspace, load_checked

        path: Path | None = options.params
        if not options.params.exists():
            if needs_file or options.params != Options.params:
                raise UserError(f"{options.params}: no such file; `fithubert init` writes one")
            path = None
        yield load_checked(path, (*changes, *options.changes)), Workspace(options.workspace)


def exit_on_skipped(skipped: "Sequence[Skipped]", hidden: int) -> None:
    """Print the number of hidden recordings and each skipped one on standard error; status 1 if one was skipped."""
    if hidden:
        print(f"{hidden} hidden recordings or folders are passed over", file=sys.stderr)
    for entry in skipped:
        print(printable(f"skipped {entry.path}: {entry.reason}"), file=sys.stderr)
    if skipped:
        print(f"{len(skipped)} skipped; the others are in the file", file=sys.stderr)
        raise SystemExit(1)


def load_model(name: str, device: str, hop_aligned: bool) -> "SpeechModel":
    """The model that `--model`, `--device` and `--hop-aligned` name. Raises UserError that lists the valid names."""
    from fithubert.config.teacher import Device as devices
    from fithubert.export.find import find_model
    from fithubert.models.runtime import HopAligned
    from fithubert.workspace import Workspace, check_name

    check_name(device, get_args(devices), "device")
    model = find_model(Workspace(options.workspace), name, cast("DeviceName", device))
    return HopAligned(model) if hop_aligned else model


def batch_seconds_of(device: str) -> float:
    """Seconds of padded audio in one forward pass."""
    from fithubert.devices import choose_device
    from fithubert.store.shards import CPU_BATCH_SECONDS

    return 120.0 if choose_device(cast("DeviceName", device)) == "cuda" else CPU_BATCH_SECONDS


def parse_layers(texts: Sequence[str], count: int) -> tuple[int, ...]:
    """The layers that `texts` name, of `count`: numbers, several with commas, or `all`; the default is the last.

    Raises UserError for anything else.
    """
    parts = [part.strip() for text in texts for part in text.split(",")]
    if "all" in parts:
        return tuple(range(count))
    if not parts:
        return (count - 1,)
    try:
        layers = tuple(sorted({int(part) for part in parts}))
    except ValueError:
        raise UserError(f"--layer {','.join(parts)}: give numbers, or `all`") from None
    if not 0 <= layers[0] <= layers[-1] < count:
        there = f"layers 0 to {count - 1}" if count > 1 else "layer 0 alone"
        raise UserError(f"--layer {','.join(parts)}: the model has {there}")
    return layers
