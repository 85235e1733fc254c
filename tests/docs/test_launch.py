"""The launch files of docs/launch, run with stand-ins for SLURM: two machines of one rank each, on this one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fithubert.config.params import load_params
from fithubert.files import read_json
from fithubert.models.weights import load_student
from fithubert.stages.cache import cache
from fithubert.workspace import Workspace
from tests.docs.commands import check_commands
from tests.docs.fences import ROOT
from tests.stages.test_cache_ranks import read_results
from tests.tiny_params import TINY_PARAMS

LAUNCH = ROOT / "docs" / "launch"
#: `srun` runs a command once on each node, and `scontrol` names the nodes.
STAND_INS = {
    "srun": """
while [[ $1 == --* ]]; do shift; done
for _ in $(seq "$SLURM_NNODES"); do "$@" & jobs+=($!); done
for job in "${jobs[@]}"; do wait "$job"; done
""",
    "scontrol": "echo localhost; echo localhost",
}


@pytest.fixture
def launched(workspace: Workspace, tmp_path: Path) -> Workspace:
    """A workspace with a tiny teacher and parameters, and the stand-ins in `bin`."""
    (tmp_path / "bin").mkdir()
    for name, lines in STAND_INS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\nset -eu\n{lines}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    values = {
        **TINY_PARAMS,
        "ablation": {},
        "distill": {**TINY_PARAMS["distill"], "updates": 4, "dev_every_updates": 2},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    return workspace


def launch(workspace: Workspace, file: str, *arguments: str, **variables: str) -> str:
    """Run a launch file as a job of SLURM would; what it printed."""
    path = (str(workspace.root / "bin"), str(Path(sys.executable).parent), os.environ["PATH"])
    # The port is that of the job.
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2", **variables}
    done = subprocess.run(
        ["bash", str(LAUNCH / file), *arguments],
        cwd=workspace.root,
        env={**os.environ, **job, "PATH": os.pathsep.join(path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.mark.slow
def test_two_machines_share_the_cache_and_the_training(launched: Workspace) -> None:
    params = load_params(launched.root / "params.yaml")
    cache(params, launched)
    alone = read_results(launched)
    for path in [*(launched.data / "cache").rglob("*.parquet"), launched.metrics("cache")]:
        path.unlink()
    assert "cache train (rank 1)" in launch(launched, "torchrun.sbatch", "cache")
    assert read_results(launched) == alone
    assert "2 x cpu" in launch(launched, "torchrun.sbatch", "distill", "thin")
    assert load_student(launched.student("thin")).config.depth == 2


@pytest.mark.slow
def test_each_job_of_an_array_scores_one_model(launched: Workspace) -> None:
    said = launch(launched, "superb.sbatch", "teacher", "fbank", SLURM_ARRAY_TASK_ID="1", SLURM_CPUS_PER_TASK="1")
    assert "fbank pr: " in said
    assert set(read_json(launched.metrics("superb@fbank"))["tasks"]) == {"pr"}
    assert not launched.metrics("superb@teacher").exists()


def test_launch_files_are_commands_that_exist() -> None:
    for path in LAUNCH.iterdir():
        first, *lines = path.read_text(encoding="utf-8").splitlines()
        assert first == "#!/bin/bash"
        subprocess.run(["bash", "-n", str(path)], check=True)
        usage = [line.removeprefix("#   ") for line in lines if line.startswith("#   sbatch")]
        assert usage
        for line in usage:
            words = line.partition(f"{path.name} ")[2]
            check_commands(f"fithubert {words}" if path.stem == "torchrun" else f"fithubert superb {words.split()[0]}")
