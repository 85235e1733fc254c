"""`python -m tests.distill.tiny_run OUT [--kill PLACE:COUNT] [--set NAME=VALUE ...]`: it may kill itself."""

import argparse
import json
from pathlib import Path

from fithubert.errors import exit_on_user_error
from tests.distill.fakes import cut_params, distill_params, prune_params, reshaped, student_params, tiny_teacher, train
from tests.kills import killed_run


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--cut", action="store_true", help="start from a real teacher, cut to size")
    parser.add_argument("--prune", action="store_true", help="the same, and prune")
    parser.add_argument("--shape", type=json.loads, default={}, help="differences of the student's shape, as JSON")
    parser.add_argument("--hints", type=json.loads, default={}, help="hints of the student, as JSON")
    with killed_run(parser) as arguments:
        student = reshaped(student_params(**arguments.hints), **arguments.shape)
        if arguments.cut or arguments.prune:
            student = cut_params() if arguments.cut else prune_params()
        teacher = tiny_teacher() if arguments.cut or arguments.prune else None
        train(arguments.out, distill_params(**arguments.changes), student_params=student, teacher=teacher)


if __name__ == "__main__":
    with exit_on_user_error():
        main()
