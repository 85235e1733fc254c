from pathlib import Path
from typing import Annotated

import typer

from fithubert.cli.options import stage, to_changes
from fithubert.errors import printable


def prepare(
    folder: Annotated[
        Path | None,
        typer.Argument(help="A folder of recordings (wav, flac, ogg, mp3 ...; nested); default: `data` of params."),
    ] = None,
    transcripts: Annotated[
        Path | None, typer.Option(help="A table of lines `path<TAB>text`; default: .txt files next to the recordings.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="A published corpus: librispeech, voxceleb1, snips ...")] = None,
    path: Annotated[
        Path | None, typer.Option(help="The folder of the published corpus or its parent; default: `corpora`.")
    ] = None,
    subset: Annotated[
        list[str] | None, typer.Option(help="A subset of librispeech, such as test-clean; repeat it for several.")
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="First download missing parts of the corpus.")] = False,
) -> None:
    """Write the corpus: the embedded one, a folder of recordings, or a published corpus, which stays in place.

    Unusable files of a folder are listed and skipped. librispeech, speech_commands and quesst14 can be downloaded; an
    interrupted download resumes. `--set data.KEY=VALUE` chooses a part of a published corpus, for example data.fold=2.
    With a folder or --source, no params.yaml is needed.

    Example: `fithubert prepare --source librispeech --path /corpora`
    """
    changes: dict[str, object] = {}
    if source is not None:
        changes["data"] = {"source": source, "path": str(path or "corpora")}
    elif path is not None:
        changes["data.path"] = str(path)
    for split in ("train", "dev", "test") if subset else ():
        changes[f"data.{split}"] = [name for name in subset or () if _split_of(name) == split]
    if folder is not None:
        changes = {"data": {"source": "folder", "path": str(folder)}}
    if transcripts is not None:
        changes["data.transcripts"] = str(transcripts)
    with stage(*to_changes(changes), needs_file=folder is None and source is None) as (params, workspace):
        from fithubert.stages.prepare import prepare as run

        done = run(params, workspace, download)
        print(f"{done.utterances} utterances, {done.hours:.2f} h, {done.speakers} speakers")
        splits = done.splits
        names = dict.fromkeys(name for name in ("train", "dev", "test", *splits) if name in splits)
        print("; ".join(f"{name} {splits[name]['utterances']}, {splits[name]['hours']:.2f} h" for name in names))
        for entry in done.skipped:
            print(printable(f"skipped {entry.path}: {entry.reason}"))
        for note in done.notes or ():
            print(note)


def _split_of(subset: str) -> str:
    """The split that a subset's name begins with; `test` for a name that is none, which the parameters refuse."""
    begin = subset.partition("-")[0]
    return begin if begin in ("train", "dev") else "test"
