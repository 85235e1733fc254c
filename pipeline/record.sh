#!/usr/bin/env bash
# The recorded results: more students, one run per seed, pooled into reports/record/WORLD.
# WORLD: `embedded` (synthetic speech) or `real` (../shared/data/real). SEED...: 1 2 3. WORKERS in the environment: so many
# students at once, each on one thread.
# A second call continues. What pooling needs of a finished seed is kept in reports/record/seeds, so that seeds may run on
# several machines; delete a seed's folder there to run it again.
set -euo pipefail
cd "$(dirname "$0")/.."
. pipeline/workspace.sh
root=$PWD
world=${1:-embedded}
seeds=("${@:2}")
[ ${#seeds[@]} -gt 0 ] || seeds=(1 2 3)
case $world in
  embedded) settings=(budget=record) ;;
  real) settings=(budget=record_real data=real "data.path=${REAL_SPEECH:-../../../shared/data/real}") ;;
  *) echo "error: record.sh $world: neither embedded nor real" >&2; exit 2 ;;
esac
export MLFLOW_TRACKING_URI=${MLFLOW_TRACKING_URI:-sqlite:///$root/record/mlflow.db}
kept=reports/record/seeds/$world
run_seed() {  # SEED: one seed in a workspace of its own
  local out=$root/$kept$1 stages=(superb superb_control)
  # The teacher's own measurements do not depend on the seed.
  [ "$1" != 1 ] || stages+=(depth profile)
  make_workspace "record/$world$1" "${settings[@]}" "distill.seed=$1" "superb.seeds=[$1]"
  # Stages that are equal in `make repro` or in another seed's run come from one cache.
  dvc cache dir "$root/.dvc/cache"
  [ "${WORKERS:-1}" = 1 ] || run_students
  dvc repro "${stages[@]}"
  rm -rf "$out.part"
  mkdir -p "$out.part/reports"
  cp params.yaml "$out.part"
  cp -r reports/metrics reports/resamples "$out.part/reports"
  mv "$out.part" "$out"
}
run_students() {  # One chain of stages for each student. What fails here, `dvc repro` runs again and says why.
  dvc repro cache extract@teacher
  dvc stage list --name-only | sed -n 's/^superb@//p' | grep -vx -e fbank -e teacher |
    OMP_NUM_THREADS=1 xargs -P "$WORKERS" -I{} sh -c \
      'for stage in distill extract_student superb; do dvc repro -s "$stage@{}" || exit 0; done'
}
for seed in "${seeds[@]}"; do
  if [ -d "$kept$seed" ]; then echo "$kept$seed: kept from an earlier call"; else (run_seed "$seed"); fi
done
fithubert pool "$kept"? --out "reports/record/$world"
