# Sourced by demo.sh and record.sh.

# A workspace of its own in folder $1, with a DVC repository that is not in git, and params.yaml composed from the other
# arguments. Call it from the root of the repository.
make_workspace() {
  local root=$PWD
  mkdir -p "$1"
  cd "$1"
  shift
  [ -d .dvc ] || dvc init --no-scm --quiet
  cp "$root/.dvc/config" .dvc/config
  dvc config core.no_scm true
  cp "$root/.dvcignore" "$root/dvc.yaml" .
  ln -sfnr "$root/fithubert" fithubert
  ln -sfnr "$root/pipeline" pipeline
  python -m pipeline.compose "$@"
}
