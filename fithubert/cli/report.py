from fithubert.cli.options import stage


def report() -> None:
    """Write reports/summary.json, the table and the page from everything measured so far.

    Example: `fithubert report --workspace demo`
    """
    with stage() as (params, workspace):
        from fithubert.stages.report import report as run

        print(run(params, workspace).page)
