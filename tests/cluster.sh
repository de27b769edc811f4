#!/bin/sh
# cluster.sh - training that is shared out among shards and processes, on this machine: 1, 2, 3, 4 and 8 processes
# leave the same bytes, a run goes on with any number of them, and ends when one of them is killed.
#   sh tests/cluster.sh       from the top folder; CC chooses the compiler; works in build/cluster
# TRAIN and SIMULATE are programs that stand already, LIBRARY what links the implementation (see run.sh). MPI=openmpi or MPI=mpich chooses between those of Debian
# (MPICH waits busily: more processes than cores are slow), else the first of them, or mpicc.
# Closes with "N passed, N failed"; the exit status follows.

cd "$(dirname "$0")/.." || exit 1
CC=${CC:-cc}
WORK=build/cluster
OMP_WAIT_POLICY=passive OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMP_WAIT_POLICY OMPI_ALLOW_RUN_AS_ROOT OMPI_ALLOW_RUN_AS_ROOT_CONFIRM
export OMPI_MCA_mpi_yield_when_idle OMPI_MCA_rmaps_base_oversubscribe
# shellcheck source=tests/programs_common.sh
. tests/programs_common.sh

# same_run A B: all that a run leaves but its times
same_run() {
    for file in last.safetensors best.safetensors predictions.csv; do
        cmp "$1/$file" "$2/$file" || return 1
    done
}

# ranks N ...: the program as N processes
ranks() {
    count=$1
    shift
    run $launch -n "$count" $program "$@"
}

rm -rf $WORK
mkdir -p $WORK
openmp=-fopenmp
echo 'int main(void) { return 0; }' >$WORK/probe.c
$CC $openmp $WORK/probe.c -o $WORK/probe 2>/dev/null || openmp=
[ -n "$TRAIN" ] || { TRAIN=$PWD/$WORK/train; $CC -O1 $openmp examples/train.c -o $TRAIN -lm; }
[ -n "$SIMULATE" ] || { SIMULATE=$PWD/$WORK/simulate; $CC -O1 $openmp tools/simulate.c -o $SIMULATE -lm; }
top=$PWD
cd $WORK || exit 1
run $SIMULATE data --train 5 --val 11 --test 4 --size 40 # enough to calibrate
good "simulate"
few="--weights none --variant atto --size 32 --epochs 2 --batch 8 --drop-path 0.2 --threads 1"
# shellcheck disable=SC2086
run $TRAIN data $few --shards 8 --out one
good "train --shards 8"
# shellcheck disable=SC2086
run $TRAIN data $few --shards 8 --stop-after 3 --out parts && run $TRAIN --resume --threads 2 --out parts &&
    same_run one parts
good "train --shards 8, stopped and resumed, is the same to the byte"
# shellcheck disable=SC2086
run $TRAIN data $few --shards 9 --out refused
[ $? -ne 0 ] && grep -q 'a batch of 8 has no 9 parts' err.txt && [ ! -e refused ]
good "more shards than images of a batch are refused"

# test_mpi MPICC LAUNCHER
test_mpi() {
    program=./train.$1 launch=$2
    # shellcheck disable=SC2086
    (cd "$top" && OMPI_CC=$CC MPICH_CC=$CC $1 -DLENSNET_MPI -O1 -Wall -Wextra -Werror $openmp examples/train.c \
        -o $WORK/train.$1 -lm) >out.txt 2>err.txt
    good "$1 -DLENSNET_MPI examples/train.c"
    # shellcheck disable=SC2086
    ranks 8 data $few --shards 8 --out $1.8 && same_run one $1.8
    good "$1: 8 processes leave the bytes of one"
    # Each step of the run by another number of processes; the last one, and what comes after it, by one.
    # shellcheck disable=SC2086
    ranks 3 data $few --shards 8 --stop-after 1 --out $1.again
    for count in 2 4; do ranks $count --resume --stop-after 1 --out $1.again || break; done
    cp -r $1.again $1.alone
    ranks 1 --resume --out $1.again && same_run one $1.again
    good "$1: a step by 3 processes, one by 2, one by 4, the rest by 1: the same to the byte"
    run $TRAIN --resume --threads 2 --out $1.alone && same_run one $1.alone
    good "$1: the rest by a program without MPI: the same to the byte"
    seeds="data $few --epochs 1 --limit 4 --shards 2 --seeds 2"
    # shellcheck disable=SC2086
    ranks 2 $seeds --stop-after 1 --out $1.seeds && ranks 2 --resume --out $1.seeds && run $TRAIN $seeds --out $1.seeds.one &&
        cmp $1.seeds/seeds.csv $1.seeds.one/seeds.csv && cmp $1.seeds/seeds.txt $1.seeds.one/seeds.txt &&
        same_run $1.seeds/seed-1 $1.seeds.one/seed-1
    good "$1: two seeds by two processes, stopped and resumed, as by one"
    # shellcheck disable=SC2086
    ranks 3 data $few --shards 2 --out refused
    [ $? -ne 0 ] && grep -q '3 processes need --shards 3 or more' err.txt && [ ! -e refused ]
    good "$1: more processes than shards are refused"
    test_sum "$1"
    test_kill "$1"
    test_broken "$1"
    test_cost "$1"
}

# Gradients added while they are computed, and a process that fails meanwhile.
test_sum() {
    # shellcheck disable=SC2086
    (cd "$top" && OMPI_CC=$CC MPICH_CC=$CC $1 -DLENSNET_MPI -O1 -Wall -Wextra -Werror -I. $openmp $LIBRARY tests/test_cluster.c \
        -o $WORK/sum.$1 -lm) >out.txt 2>err.txt
    good "$1 -DLENSNET_MPI tests/test_cluster.c"
    for count in 2 3 8; do
        run $launch -n $count ./sum.$1 || break
        grep -q '^3 passed, 0 failed' out.txt || break
    done
    [ $count -eq 8 ] && grep -q '^3 passed, 0 failed' out.txt
    good "$1: 2, 3 and 8 processes add as one does, and one that fails is heard of"
}

# One process cannot read an image of the epoch under way.
test_broken() {
    rm -rf data.broken
    cp -r data data.broken
    # shellcheck disable=SC2086
    $launch -n 3 $program data.broken $few --shards 8 --epochs 400 --cache 0 --out "$1.broken" >out.txt 2>err.txt &
    launcher=$!
    while [ ! -s "$1.broken/last.safetensors" ] && kill -0 $launcher 2>/dev/null; do sleep 0.1; done
    : >data.broken/train/vort/000002.npy
    wait $launcher
    [ $? -ne 0 ] && grep -q 'rank [12] of 3: .*vort/000002.npy' err.txt && grep -q '^error: .*vort/000002.npy' err.txt
    good "$1: an image that one process cannot read ends all, each with the sentence"
}

# The last process of a run that has saved its state is killed. Beforehand the same run is made whole.
test_kill() {
    # shellcheck disable=SC2086
    $launch -n 2 $program data $few --shards 8 --epochs 400 --out "$1.killed" >killed.txt 2>killed.err &
    launcher=$!
    while [ ! -s "$1.killed/last.safetensors" ] && kill -0 $launcher 2>/dev/null; do sleep 0.1; done
    ps -eo pid=,args= | awk -v p="$program" -v out="$1.killed" '$2 == p && $NF == out { last = $1 } END { print last }' |
        xargs kill -9
    wait $launcher
    [ $? -ne 0 ] && ! ps -eo args= | grep "^$program .*$1.killed" >/dev/null
    good "$1: kill -9 of a process ends all"
    # MPICH's launcher leaves the others no time for words, and has its own
    grep -q -- 'rank 0 of 2.*--resume' killed.err || grep -q 'BAD TERMINATION' killed.txt || { cp killed.err err.txt; false; }
    good "$1: a sentence says so"
    rm -rf "$1.copy"
    cp -r "$1.killed" "$1.copy" && ranks 3 --resume --stop-after 2 --out "$1.killed" &&
        run $TRAIN --resume --stop-after 2 --out "$1.copy" &&
        cmp "$1.killed/last.safetensors" "$1.copy/last.safetensors"
    good "$1: --resume goes on after it, to the same bits"
}

# The parts of a step, and the model of its cost. No figure is judged: on a busy machine none can be.
test_cost() {
    # shellcheck disable=SC2086
    (cd "$top" && OMPI_CC=$CC MPICH_CC=$CC $1 -DLENSNET_MPI -O1 -Wall -Wextra -Werror $openmp $LIBRARY tools/cluster_cost.c \
        -o $WORK/cost.$1 -lm) >out.txt 2>err.txt
    good "$1 -DLENSNET_MPI tools/cluster_cost.c"
    program=./cost.$1
    ranks 2 --head --size 32 --batch 8 --rounds 1 && cp out.txt costs.csv
    good "$1: cluster_cost"
    command -v python3 >/dev/null || return
    run python3 "$top/tools/cluster_cost.py" costs.csv --table && grep -q '^| atto, 32 px | 256 | 10 |' out.txt &&
        run python3 "$top/tools/cluster_cost.py" costs.csv && grep -q '^atto  *32  *8  *8  *2 ' out.txt
    good "cluster_cost.py"
}

found=
for kind in openmpi mpich; do
    command -v mpicc.$kind >/dev/null && command -v mpirun.$kind >/dev/null || continue
    [ "${MPI:-$kind}" = $kind ] && [ -z "$found" ] || continue
    test_mpi mpicc.$kind mpirun.$kind
    found=yes
done
[ -n "$found" ] || test_mpi mpicc mpirun

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
