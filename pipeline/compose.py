"""Write params.yaml from the presets: `python -m pipeline.compose [GROUP=NAME | KEY=VALUE ...]`.

The result is that of `dvc exp run -S ...`, but no stage is run.
"""

import sys
from pathlib import Path
from typing import Any

import yaml

from fithubert.config.base import validate
from fithubert.config.params import Params
from fithubert.errors import UserError, exit_on_user_error
from fithubert.files import atomic_file

#: `dvc exp run -S` writes the same file without this line.
HEADER = "# The default composition of experiments/presets (written by `make params`; a test compares them).\n"
PRESETS = Path(__file__).resolve().parents[1] / "experiments" / "presets"


def compose(overrides: list[str]) -> str:
    """The composition of the default presets and `overrides` as YAML; raises UserError in one line."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_dir(str(PRESETS), version_base=None):
            composed = hydra_compose("default", overrides=overrides)
        OmegaConf.resolve(composed)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"presets: {' '.join(str(error).split())}") from None
    values: Any = OmegaConf.to_container(composed)
    validate(Params, values, "presets")
    return yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=120)


if __name__ == "__main__":
    if {"-h", "--help"} & {*sys.argv[1:]}:
        sys.exit(print(__doc__))
    with exit_on_user_error(), atomic_file(Path("params.yaml")) as aside:
        aside.write_text(("" if sys.argv[1:] else HEADER) + compose(sys.argv[1:]), encoding="utf-8")
