"""What this Python has: versions, extras, a GPU, the synthesiser."""

import ctypes
import os
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Literal

from fithubert import __version__
from fithubert.errors import UserError


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `fix`: how a problem is mended, or what a note is an offer of.

    `problem`: a default `dvc repro` would stop, or lose what it sends. `note`: good to know.
    """

    mark: Literal["ok", "note", "problem"]
    topic: str
    text: str
    fix: str = ""


@dataclass(frozen=True)
class Extra:
    """An extra of this package: the modules that it brings, what it is for, whether a default `dvc repro` needs it."""

    modules: tuple[str, ...]
    gives: str
    needed: bool


EXTRAS = {
    "synthesis": Extra(("espeakng_loader",), "the embedded corpus", True),
    "train": Extra(("lightning_fabric",), "training", True),
    "trials": Extra(("scipy",), "ablations", True),
    "report": Extra(("jinja2", "matplotlib", "PIL"), "the page with its figures", True),
    "pipeline": Extra(("dvc", "hydra"), "`dvc repro` and presets", True),
    "tracking": Extra(("mlflow",), "runs in MLflow; without it they are recorded in .tracking/ alone", False),
    "cli": Extra(("typer", "rich"), "this command", False),
    "onnx": Extra(("onnx", "onnxruntime", "onnxscript"), "teacher.runtime=onnx and exports to onnx", False),
    "pretrain": Extra(("sklearn", "lightning_fabric"), "`fithubert pretrain` and `fithubert units`", False),
    "hub": Extra(("huggingface_hub",), "downloads from Hugging Face", False),
    "sweep": Extra(("optuna", "sqlalchemy", "scipy"), "`fithubert sweep`", False),
}


def inspect_versions() -> list[Finding]:
    """Python, torch and torchaudio as they answer."""
    found = [Finding("ok", "fithubert", f"{__version__} in Python {platform.python_version()} ({sys.executable})")]
    try:
        import torch
    except (ImportError, OSError) as error:
        return [*found, _broken("torch", error)]
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    said = f"{torch.__version__} ({build}), {threads} of {cores} cores"
    limit = os.environ.get("OMP_NUM_THREADS")
    idle = f"OMP_NUM_THREADS={limit} leaves cores idle; unset it for one run at a time" if limit else ""
    found.append(Finding("note" if threads < cores and idle else "ok", "torch", said, idle if threads < cores else ""))
    try:
        import torchaudio
    except (ImportError, OSError) as error:  # OSError: built for another torch
        return [*found, _broken("torchaudio", error)]
    return [*found, Finding("ok", "torchaudio", torchaudio.__version__)]


def inspect_extras() -> list[Finding]:
    """A finding for each extra that is missing, and one for all that are there."""
    missing = {name: [m for m in extra.modules if find_spec(m) is None] for name, extra in EXTRAS.items()}
    there = [name for name, modules in missing.items() if not modules]
    found = [Finding("ok", "extras", f"installed: {', '.join(there) or 'none'}")]
    for name, modules in missing.items():
        if modules:
            extra = EXTRAS[name]
            said = f"{name} is missing ({', '.join(modules)}), for {extra.gives}"
            mark: Literal["note", "problem"] = "problem" if extra.needed else "note"
            found.append(Finding(mark, "extras", said, f"pip install 'fithubert[{name}]'"))
    return found


def inspect_gpu() -> Finding:
    """The GPUs that torch finds, or what it means that there is none."""
    import torch

    if not torch.cuda.is_available():
        said = (
            "none; everything runs on the CPU, which is enough for the default run and not for the published experiment"
        )
        return Finding("note", "GPU", said)
    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return Finding("ok", "GPU", ", ".join(f"{d.name} with {d.total_memory / 2**30:.0f} GiB" for d in devices))


def inspect_synthesiser() -> Finding:
    """Whether espeak-ng, which speaks the embedded corpus, can be loaded."""
    from fithubert.data.synthetic.speech import find_espeak

    try:
        loader = find_espeak()
        ctypes.CDLL(loader.get_library_path())
    except UserError as error:
        return Finding("problem", "espeak-ng", "is not installed", str(error).partition(": ")[2])
    except (OSError, RuntimeError) as error:
        return Finding(
            "problem", "espeak-ng", f"cannot be loaded ({error})", "pip install --force-reinstall espeakng-loader"
        )
    return Finding("ok", "espeak-ng", f"loads ({find_version('espeakng-loader')})")


def find_version(package: str) -> str | None:
    """The installed version of a package, without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _broken(package: str, error: Exception) -> Finding:
    said = " ".join(str(error).split())[:160]
    fix = "make distclean && make (the versions in constraints.txt belong together)"
    return Finding("problem", package, f"{find_version(package) or 'missing'}: cannot be imported ({said})", fix)
