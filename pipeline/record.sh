#!/usr/bin/env bash
# The recorded results: more students, three seeds for training and heads, pooled into reports/record/WORLD.
# WORLD: `embedded` (synthetic speech) or `real` (../shared/data/real). A second call continues.
set -euo pipefail
cd "$(dirname "$0")/.."
. pipeline/workspace.sh
world=${1:-embedded}
case $world in
  embedded) settings=(budget=record) ;;
  real) settings=(budget=record_real data=real "data.path=${REAL_SPEECH:-$PWD/../shared/data/real}") ;;
  *) echo "error: record.sh $world: neither embedded nor real" >&2; exit 2 ;;
esac
export MLFLOW_TRACKING_URI=${MLFLOW_TRACKING_URI:-sqlite:///$PWD/record/mlflow.db}
run_seed() {  # SEED DVC_ARGUMENTS...: one seed in a workspace of its own
  make_workspace "record/$world/seed$1" "${settings[@]}" "distill.seed=$1" "superb.seeds=[$1]"
  # The stages that do not depend on the seed come from the cache of the first run.
  dvc cache dir ../cache
  shift
  dvc repro "$@"
}
(run_seed 1 superb superb_control depth profile)
for seed in 2 3; do (run_seed "$seed" superb superb_control); done
fithubert pool record/"$world"/seed{1,2,3} --out "reports/record/$world"
