"""All cases of the campaign, in the numbers of a full run."""

from pathlib import Path

from benchmarks.torture import damaged, inputs, params, system
from benchmarks.torture.harness import Case
from benchmarks.torture.world import World, make_world


def list_all(root: Path, seed: int, share: float = 1.0) -> list[Case]:
    """The cases of every kind; `share` of their full numbers, at least one of each."""
    world: World = make_world(root / "world")
    folders = {name: root / name for name in ("damaged", "params", "pickles", "audio", "system")}
    for folder in folders.values():
        folder.mkdir()

    def number(full: int) -> int:
        return max(1, round(full * share))

    per_file = number(40)
    return [
        *damaged.list_cases(world, folders["damaged"], seed, per_file),
        *params.list_cases(world, folders["params"], seed, number(600)),
        *inputs.list_pickles(folders["pickles"], seed, number(240)),
        *inputs.list_recordings_cases(folders["audio"], seed, number(240)),
        *system.list_kills(world, folders["system"], seed, number(96)),
        *system.list_full_disks(world, folders["system"], seed, number(60)),
        *system.list_forbidden(world, folders["system"], number(len(system.STAGES))),
        *system.list_pairs(world, folders["system"], seed, number(16)),
    ]
