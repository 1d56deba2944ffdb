#!/usr/bin/env bash
# One experiment as a chain of jobs, each going on where the last one stopped, until its log is complete:
#
#     OUTPUT=results/long.h5 CONFIG=long.toml jobs/chain.sh -A PROJECT -l select=8 jobs/aurora.pbs
#
# Every link submits the next, which PBS starts only if this one does not end with 0. See jobs/README.md.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "$0")/common.sh"

if (($# == 0)); then refuse "usage: OUTPUT=FILE.h5 [VARIABLE=VALUE …] chain.sh [option of qsub …] SCRIPT"; fi
[[ -n ${OUTPUT:-} ]] || refuse "OUTPUT: is not set: all links go on with one log, so name it: OUTPUT=FILE.h5 chain.sh …"
[[ -f ${!#} ]] || refuse "${!#}: is no job script: it comes last, behind the options of qsub"
script=${!#}
[[ -z ${SWEEP:-} && ${script##*/} != array.pbs ]] ||
    refuse "a chain is of one experiment: a sweep goes on where it stopped when its job is submitted again"
for word; do
    case $word in
        -v* | -V) refuse "$word: variables are taken from the environment: NAME=VALUE chain.sh …" ;;
        *$'\n'*) refuse "an option of qsub has a line break: $word" ;;
    esac
done
export LINKS=${LINKS:-10}
[[ $LINKS =~ ^[1-9][0-9]{0,3}$ ]] || refuse "LINKS=$LINKS: must be the number of jobs the chain may have at most"

mkdir -p -- "$(dirname -- "$OUTPUT")"
printf '%s\n' "$@" >"$(chain_file)"
row chain "link 1 of at most $LINKS is $(submit_link 1)"
