"""How the threads of torch wait for work; imports nothing, since it must run before torch is imported."""

import os


def wait_without_spinning() -> None:
    """Let idle OpenMP threads sleep, unless the user has set OMP_WAIT_POLICY.

    By default they spin. If another process uses the same cores, a training then takes several times as long. OpenMP
    reads the variable when torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
