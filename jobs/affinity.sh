#!/usr/bin/env bash
# Gives a rank on Polaris its GPU, and becomes the command that follows: affinity.sh python -m mpisim.run …
#
# The four GPUs of a host lie in reverse to its cores: cores 0-7, where local rank 0 is bound, are next to GPU 3. The
# variable must be there before Python starts, since CUDA reads it once. On Aurora nothing of the kind is needed.
set -euo pipefail

# What PALS says, and other launchers.
local_rank=${PMI_LOCAL_RANK:-${PALS_LOCAL_RANKID:-${MPI_LOCALRANKID:-${OMPI_COMM_WORLD_LOCAL_RANK:-}}}}
if [[ ! $local_rank =~ ^[0-9]+$ ]]; then
    echo "affinity.sh: no launcher says which rank of its host this is (PMI_LOCAL_RANK): start it by mpiexec" >&2
    exit 2
fi
export CUDA_VISIBLE_DEVICES=$((3 - local_rank % 4))
exec "$@"
