"""Commands about the machine."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from fithubert.cli.start import options
from fithubert.errors import exit_on_user_error


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False) -> None:
    """Look whether a default `dvc repro` would run here, and say how to mend what is in its way.

    One line a finding: versions, extras, GPU, parameters, workspace, DVC, disk, MLflow, what is there already. `ok` is
    well, `note` is good to know, and a `problem` stops a run or loses what it sends: the status is then 1. Nothing is
    changed or downloaded.
    """
    with exit_on_user_error(options.debug):
        from fithubert.stages.doctor import doctor as run
        from fithubert.workspace import Workspace

        found = run(Workspace(options.workspace), options.params)
        if as_json:
            print(json.dumps([asdict(finding) for finding in found], indent=2))
        else:
            width = max(len(finding.topic) for finding in found)
            for finding in found:
                text = " ".join(f"{finding.text}{f': {finding.fix}' if finding.fix else ''}".split())
                print(f"{finding.mark:<7}  {finding.topic:<{width}}  {text}")
        problems = sum(finding.mark == "problem" for finding in found)
        if not as_json:
            said = (
                f"{problems} problem{'s' if problems > 1 else ''}"
                if problems
                else "nothing is in the way of `dvc repro`"
            )
            print(f"\n{said}")
        raise SystemExit(1 if problems else 0)
