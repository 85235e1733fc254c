import json
import os
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from fithubert.cli.options import no_stage, options
from fithubert.errors import UserError

_TEMPLATE = Path(__file__).parents[1] / "config" / "init.yaml"
#: Folders that the stages write.
_WRITTEN = ("data", "artifacts", "reports")
_EMBEDDED = {
    "data": """\
  # Synthetic speech with labels for all ten tasks. For recordings: {source: folder, path: FOLDER}.
  source: synthetic
  hours: 0.5
  speakers: 48
  seed: 1""",
    "sweep": "sweep: {of: small}",
}
_FOLDER = {
    "data": """\
  source: folder
  # Relative to the folder in which the commands run. The first level of folders names the speakers.
  path: %s
  # A file of `path<TAB>text` lines, or a table of Common Voice; it makes speech recognition (asr) a task.
  transcripts: null
  dev_share: 0.1
  test_share: 0.1
  seed: 1""",
    "sweep": """\
sweep:
  of: small
  # The default objective, phone errors, needs phone labels. `sid` can be one too, if `tasks` has it.
  objectives: [dev_loss, macs_per_second]
  budget: {updates: 100, dev_every_updates: 25, init_seconds: 30, tasks: {}}""",
}


def init(
    folder: Annotated[
        Path | None,
        typer.Argument(help="A folder of recordings; default: the one here that has some, else the embedded corpus."),
    ] = None,
) -> None:
    """Write a params.yaml with comments, for a folder of recordings or the embedded corpus.

    An existing file is never changed. `--params FILE` gives another name. `prepare FOLDER`, `teacher NAME`, `cache`,
    `extract`, `depth`, `profile STUDENT` and all commands that are not stages (`features`, `units`, `export` ...)
    need no params.yaml.

    Example: `fithubert init recordings`
    """
    with no_stage():
        from fithubert.files import atomic_file

        path = options.params
        if os.path.lexists(path):
            raise UserError(f"{path}: already exists, and is left as it is; name another file with --params")
        corpus, sections = _describe_corpus(folder)
        text = Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(sections)
        with atomic_file(path, replace=False) as temporary:
            temporary.write_text(text, encoding="utf-8")
        print(f"{path}: {corpus}, teacher mini, student small\nnext: fithubert prepare")


def _describe_corpus(folder: Path | None) -> tuple[str, dict[str, str]]:
    """The corpus in words, and the sections that depend on it; raises UserError if it is unclear which is meant."""
    from fithubert.data.folder import check_places
    from fithubert.data.listing import find_recordings, is_hidden, name_formats
    from fithubert.workspace import Workspace

    workspace = Workspace(options.workspace)
    if folder is None:
        entries = sorted(workspace.root.iterdir()) if workspace.root.is_dir() else []
        visible = [entry for entry in entries if not is_hidden(entry.name) and entry.name not in _WRITTEN]
        found = [entry for entry in visible if entry.is_dir() and find_recordings(entry).paths]
        if len(found) > 1:
            names = ", ".join(entry.name for entry in found)
            raise UserError(f"recordings lie in {names}: name one, as `fithubert init {found[0]}`")
        if not found:
            return "the embedded corpus", _EMBEDDED
        folder = found[0]
    check_places(folder, workspace.data)
    count = len(find_recordings(folder).paths)
    if not count:
        raise UserError(f"{folder}: holds no recordings ({name_formats()})")
    sections = {**_FOLDER, "data": _FOLDER["data"] % json.dumps(str(folder), ensure_ascii=False)}
    return f"{count} recording{'' if count == 1 else 's'} in {folder}", sections
