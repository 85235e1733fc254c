from fithubert.cli.options import stage


def depth() -> None:
    """Score phone recognition on each hidden state of the teacher alone: does its depth matter on this corpus?

    Example: `fithubert depth --set depth.seeds=[1,2,3]`
    """
    with stage(needs_file=False) as (params, workspace):
        from fithubert.stages.depth import depth as run
        from fithubert.stages.extract import extract

        extract(params, workspace, "teacher")
        metrics = run(params, workspace)
        print(metrics.reason or f"best single state on dev: {metrics.best_layer}")
