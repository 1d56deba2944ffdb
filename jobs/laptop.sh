#!/usr/bin/env bash
# An experiment on this machine: jobs/laptop.sh [option of mpisim.run …]. Its variables are in jobs/README.md.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "$0")/common.sh"

activate_environment
type mpiexec >/dev/null 2>&1 || refuse "there is no mpiexec here: pip install -e '.[local]' brings one"

num_cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
num_ranks=${RANKS_PER_NODE:-$num_cores}
[[ $num_ranks =~ ^[1-9][0-9]{0,3}$ ]] || refuse "RANKS_PER_NODE=$num_ranks: must be a number of ranks"
# Threads of several ranks on one core wait for each other: ten times slower, as measured.
if ((num_ranks >= num_cores)); then export OMP_NUM_THREADS=1; fi

make_run
run+=("$@")
check_run 1 "$num_ranks"
# In place of this shell: signals reach mpiexec, and its exit code is the script's.
exec mpiexec -n "$num_ranks" "${run[@]}"
