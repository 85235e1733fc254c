#!/usr/bin/env bash
# All stages with tiny budgets in demo/, which is a workspace of its own: the results of `dvc repro` stay unchanged. A
# second call runs only stages whose inputs changed.
set -euo pipefail
cd "$(dirname "$0")/.."
. pipeline/workspace.sh
# Two students are enough here; the others differ only in shape.
make_workspace demo data=tiny budget=demo '~students.fithubert_start' '~students.fithubert_random' '~students.distilhubert_start'
export MLFLOW_TRACKING_URI=${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}
dvc repro "$@"
