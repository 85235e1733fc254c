"""`fithubert profile`: the cost of every model."""

from fithubert.cli.options import stage


def profile() -> None:
    """Measure parameters, MACs, latency and memory of the teacher and every student, timed in turn.

    Example: `fithubert profile --set profile.rounds=3`
    """
    with stage() as (params, workspace):
        from fithubert.stages.profile import profile as run

        for name, cost in run(params, workspace).models.items():
            total, latency = cost.params.total, cost.latency_ratio
            print(f"{name}: {total:,} parameters, {latency:.0%} of the teacher's latency")
