# shellcheck shell=bash
# What the job scripts share: they source this file, which finds the checkout, and end with `launch`.

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# What qsub -v or the environment may say; chain.sh hands it on from link to link. jobs/README.md tells of each.
variables=(ARGUMENTS CHECKOUT CONFIG LINKS MARGIN OUTPUT RANKS_PER_NODE VENV WALLTIME)
# Those go to the ranks as they are. A link hands on what it was given itself: what a machine's script sets later may be
# true of this job's hosts alone.
handed_on=()
for name in MASTER_ADDR MASTER_PORT MPIR_CVAR_ENABLE_GPU MPIR_CVAR_PROGRESS_TIMEOUT; do
    if [[ -n ${!name:-} ]]; then handed_on+=("$name"); fi
done

row() {
    printf '%-13s %s\n' "$1" "$2"
}

refuse() { # 2 is mpisim's code for wrong input
    printf 'mpisim job: %s\n' "$*" >&2
    exit 2
}

unstrict() { # modules and environments of a site read variables that are not set
    set +u
    "$@"
    set -u
}

activate_environment() {
    local folder=${VENV:-$checkout/.venv}
    if [[ -f $folder/bin/activate ]]; then
        # shellcheck source=/dev/null
        unstrict source "$folder/bin/activate"
    elif [[ -n ${VENV:-} ]]; then
        refuse "VENV=$VENV: is no virtual environment: it has no bin/activate"
    fi
}

# The command `python -m mpisim.run …` without a walltime, in the array `run`. Of an option that is given twice, mpisim
# takes the last: what a person wrote comes behind what the script says.
make_run() {
    local words word
    run=(python -m mpisim.run "$@")
    if [[ -n ${CONFIG:-} ]]; then run+=(--config "$CONFIG"); fi
    if [[ -n ${OUTPUT:-} ]]; then run+=(--output "$OUTPUT"); fi
    if [[ ${ARGUMENTS:-} =~ [^[:space:]] ]]; then
        words=$(xargs printf '%s\n' <<<"$ARGUMENTS" 2>/dev/null) ||
            refuse "ARGUMENTS=$ARGUMENTS: cannot be split into words: is a quote open?"
        while IFS= read -r word; do run+=("$word"); done <<<"$words"
    fi
}

# Exits with 2, after mpisim's line, where an option is wrong: before thousands of ranks start to find that out. It
# takes no MPI, no torch and no data; the run itself looks at those first of all.
check_run() {
    local num_hosts=$1 num_ranks=$2 num_nodes
    num_nodes=$(
        python - "${run[@]:3}" <<'PYTHON'
import sys

from mpisim.arguments import exit_code, parse_config
from mpisim.graphs.generators import make_topology

sys.exit(exit_code(lambda: print(make_topology(parse_config(sys.argv[1:]).topology).num_nodes)))
PYTHON
    ) || exit
    if [[ ! $num_nodes =~ ^[0-9]+$ ]]; then # --help
        printf '%s\n' "$num_nodes"
        exit
    fi
    show_ranks "$num_hosts" "$num_ranks"
    show_nodes "$num_hosts" "$num_ranks" "$num_nodes"
}

# The same for the runs of a sweep, or the one of a number, each of which has so many hosts and ranks.
check_sweep() {
    local num_hosts=$1 num_ranks=$2 counts count
    shift 2
    counts=$(
        python - "$SWEEP" "$@" <<'PYTHON'
import sys
from pathlib import Path

from mpisim.arguments import exit_code
from mpisim.sweep.expansion import chosen, count_nodes, expand
from mpisim.sweep.file import read_sweep


def show() -> None:
    path, *index = sys.argv[1:]
    runs = chosen(expand(read_sweep(Path(path))), int(index[0]) if index else None)
    print(*sorted(set(count_nodes(runs).values())), sep="\n")


sys.exit(exit_code(show))
PYTHON
    ) || exit
    for count in $counts; do show_nodes "$num_hosts" "$num_ranks" "$count"; done
}

show_nodes() {
    local num_hosts=$1 num_ranks=$2 num_nodes=$3 per_host=$(($2 / $1)) enough
    if ((num_ranks <= num_nodes)); then
        row nodes "$num_nodes in the topology, up to $(((num_nodes + num_ranks - 1) / num_ranks)) on a rank"
        return
    fi
    row nodes "$num_nodes in the topology: $((num_ranks - num_nodes)) of the ranks have none and stay idle"
    enough=$(((num_nodes + per_host - 1) / per_host))
    if ((enough < num_hosts)); then row note "$enough of the $num_hosts hosts would do"; fi
}

show_ranks() {
    row hosts "$1"
    row ranks "$2, $(($2 / $1)) on each host"
}

check_variables() { # which of them go together
    local name
    if [[ -z ${SWEEP:-} ]]; then return; fi
    for name in CONFIG OUTPUT ARGUMENTS; do
        [[ -z ${!name:-} ]] || refuse "$name: is for one experiment: the sweep file has the options of its runs (SWEEP)"
    done
    [[ ${PBS_ARRAY_INDEX:-0} =~ ^[0-9]+$ ]] || refuse "PBS_ARRAY_INDEX=$PBS_ARRAY_INDEX: must be the number of a run"
}

count_ranks_per_host() { # the default, which is the most a host takes
    local wanted=${RANKS_PER_NODE:-$1}
    if [[ ! $wanted =~ ^[1-9][0-9]{0,3}$ ]] || ((wanted > $1)); then
        refuse "RANKS_PER_NODE=$wanted: must be 1 to $1, a device for each rank: several nodes can be on a rank"
    fi
    printf '%s' "$wanted"
}

count_hosts() { # PBS may name a host once for each of its chunks
    local file=${PBS_NODEFILE:-}
    [[ -n $file ]] || refuse "PBS_NODEFILE: is set by PBS: submit this script with qsub"
    [[ -r $file && ! -d $file ]] || refuse "PBS_NODEFILE=$file: cannot be read, and PBS names the job's hosts there"
    sort -u -- "$file" | grep -c . || refuse "PBS_NODEFILE=$file: names no host"
}

seconds_of() { # 3600, 60:00 and 01:00:00 are an hour
    local part sum=0
    [[ $1 =~ ^[0-9]+(:[0-9]{1,2}){0,2}$ ]] || return 1
    while IFS= read -r -d : part; do sum=$((60 * sum + 10#$part)); done <<<"$1:"
    printf '%s' "$sum"
}

# PBS sends no signal early enough to write a checkpoint: the run is told when to stop.
add_walltime() {
    local job wanted whole margin started used=$SECONDS left
    job=$(qstat -f "$PBS_JOBID" 2>/dev/null) || job=
    wanted=${WALLTIME:-$(sed -n 's/^ *Resource_List.walltime = //p' <<<"$job")}
    if [[ -z $wanted ]]; then
        row walltime "unknown, since qstat does not tell: PBS ends the run wherever it is (WALLTIME tells)"
        return
    fi
    whole=$(seconds_of "$wanted") || refuse "WALLTIME=$wanted: is neither seconds nor hours:minutes:seconds"
    # The job began before this shell did: longer ago in an interactive one.
    started=$(sed -n 's/^ *stime = //p' <<<"$job")
    if [[ -n $started ]] && started=$(date -d "$started" +%s 2>/dev/null); then
        started=$(($(date +%s) - started))
        if ((started > used)); then used=$started; fi
    fi
    margin=$(seconds_of "${MARGIN:-120}") || refuse "MARGIN=$MARGIN: is neither seconds nor hours:minutes:seconds"
    left=$((whole - used - margin))
    if ((left <= 0)); then
        refuse "walltime: $((whole - used)) s are left of the job, and the margin to end it is $margin s (MARGIN)"
    fi
    row walltime "$left s: $whole less $used gone by and a margin of $margin"
    run=("${run[@]:0:3}" --walltime "$left" "${run[@]:3}")
}

# launch MACHINE RANKS_PER_HOST [OPTION OF mpiexec …] [WRAPPER OF A RANK]
# Runs the experiment, or runs of a sweep, on the hosts of the job, and ends with the exit code.
launch() {
    local machine=$1 per_host num_hosts num_ranks code=0
    check_variables
    per_host=$(count_ranks_per_host "$2")
    shift 2
    num_hosts=$(count_hosts)
    num_ranks=$((num_hosts * per_host))
    local on_disk=--no-download # there is no route from here: what is missing is to be one line, not a wait
    local launcher=(mpiexec -n "$num_ranks" --ppn "$per_host" "$@")
    if [[ -n ${SWEEP:-} ]]; then # it starts mpiexec itself
        run=(python -m mpisim.sweep "$SWEEP" --run "$on_disk")
        if [[ -n ${PBS_ARRAY_INDEX:-} ]]; then # one run, which has all hosts
            run+=(--index "$PBS_ARRAY_INDEX" --ranks "$num_ranks")
            run+=(--launcher "mpiexec -n {ranks}$(printf ' %q' "${launcher[@]:3}")")
        else # all runs, a host for each at a time
            run+=(--executor parsl --machine "$machine" --ranks "$per_host")
        fi
        launcher=()
        show_ranks "$num_hosts" "$num_ranks"
        if [[ -n ${PBS_ARRAY_INDEX:-} ]]; then
            check_sweep "$num_hosts" "$num_ranks" "$PBS_ARRAY_INDEX"
        else
            check_sweep 1 "$per_host"
        fi
    else
        make_run "$on_disk"
        check_run "$num_hosts" "$num_ranks"
    fi
    add_walltime
    begin_link
    run=(${launcher[@]+"${launcher[@]}"} "${run[@]}")
    row command "$(printf '%q ' "${run[@]}")"
    # PBS sends SIGTERM to mpiexec as well, whose ranks finish their round: the code of that is still to be passed on.
    terminated=
    trap 'terminated=yes' TERM
    "${run[@]}" || code=$?
    end_link "$code"
    exit "$code"
}

# Links of a chain. chain.sh writes what they are submitted with, one argument of qsub a line, beside the log.

chain_file() {
    printf '%s' "${OUTPUT%.h5}.chain"
}

submit_link() { # its number, then further options of qsub
    local number=$1 name line names=CHAIN_LINK words=()
    shift
    for name in "${variables[@]}" ${handed_on[@]+"${handed_on[@]}"}; do
        if [[ -n ${!name:-} ]]; then names+=,$name; fi
    done
    while IFS= read -r line; do words+=("$line"); done <"$(chain_file)"
    local script=${words[${#words[@]} - 1]}
    unset "words[${#words[@]}-1]"
    # Names alone: qsub takes the values from its environment, where commas and spaces need no further quotes.
    CHAIN_LINK=$number qsub ${words[@]+"${words[@]}"} "$@" -v "$names" "$script"
}

list_checkpoints() {
    local log
    log=$(readlink -m -- "$OUTPUT") # where a link leads to, the checkpoints are
    { find "${log%.h5}.ckpt" -mindepth 1 -maxdepth 1 2>/dev/null || true; } | sort
}

# Submits the next link before the run starts: PBS starts it even where this job is killed, unless it ends with 0.
begin_link() {
    successor=
    if [[ -z ${CHAIN_LINK:-} ]]; then return; fi
    run+=(--resume)
    kept=$(list_checkpoints)
    if ((CHAIN_LINK >= LINKS)); then
        row chain "link $CHAIN_LINK of $LINKS, the last"
    elif successor=$(submit_link $((CHAIN_LINK + 1)) -W "depend=afternotok:$PBS_JOBID"); then
        row chain "link $CHAIN_LINK of at most $LINKS; the next is $successor"
    else
        row chain "link $CHAIN_LINK; qsub takes no next one: if there is more to do, call chain.sh again"
    fi
}

# The next link stays after 3, a stop at a checkpoint, and if PBS ends this job: what has failed would fail again, and
# where a link's time was too short for a round, so would the next one's be.
end_link() {
    local stuck=
    if [[ -n ${CHAIN_LINK:-} && $1 -eq 3 && -z $terminated && $(list_checkpoints) == "$kept" ]]; then stuck=yes; fi
    if [[ -n $stuck ]]; then row chain "this link got no further than the one before: give a job more time"; fi
    if [[ -n $successor && -z $terminated ]] && { [[ $1 -ne 3 ]] || [[ -n $stuck ]]; }; then
        qdel "$successor" || row chain "$successor cannot be deleted: qdel it"
    elif [[ -z $successor && -n ${CHAIN_LINK:-} && $1 -eq 3 ]]; then
        row chain "$OUTPUT is not complete: chain.sh goes on from its checkpoint"
    fi
}
