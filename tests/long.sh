#!/bin/sh
# long.sh - what takes longer than tests/run.sh may: faults in the programs' memory, kill -9 at many moments,
# planted mistakes, fuzzing, coverage, other processors and C libraries, load, a survey in parts.
#   sh tests/long.sh                 everything, an hour or more
#   sh tests/long.sh PART ...        malloc kill bits sanitize mutants fuzz coverage elsewhere load survey
#   sh tests/long.sh --sample N      one part for a minute or two, the N-th in turn
# MORE=10 makes malloc, kill, mutants, fuzz, load and survey ten times as long; RUNNER stands before each command.
# What a part needs and does not find it says and leaves out. The latest figures are in tests/README.md.
# Closes with "N passed, N failed"; the exit status follows.

cd "$(dirname "$0")/.." || exit 1
CC=${CC:-cc}
MORE=${MORE:-1}
WORK=$PWD/build/long
OMP_WAIT_POLICY=passive
LENSNET_TEST_QUICK=1
export OMP_WAIT_POLICY LENSNET_TEST_QUICK
mkdir -p "$WORK"
passed=0
failed=0

have() { command -v "$1" >/dev/null 2>&1; }

# good TEXT: counts the last command's success
good() {
    if [ $? -eq 0 ]; then
        passed=$((passed + 1))
        echo "passed: $1"
    else
        failed=$((failed + 1))
        echo "FAILED: $1"
    fi
}

# program NAME: one of examples/ or tools/, built into $WORK unless it is there, or where run.sh puts it,
# and newer than the header
program() {
    source=examples/$1.c
    [ -f "$source" ] || source=tools/$1.c
    built=build/tests/$(dirname "$source")_$1
    [ "$WORK/$1" -nt lensnet.h ] && [ "$WORK/$1" -nt "$source" ] && return
    [ "$built" -nt lensnet.h ] && [ "$built" -nt "$source" ] && cp "$built" "$WORK/$1" && return
    $RUNNER $CC -O1 -fopenmp -I. "$source" -o "$WORK/$1" -lm
}

# data: 24 small images a class, and weights trained on them
data() {
    program simulate && program train || return 1
    [ "$WORK/whole/best.safetensors" -nt "$WORK/train" ] && return # of this very program
    (cd "$WORK" && rm -rf data whole && ./simulate data --train 16 --val 8 --test 8 >/dev/null &&
        ./train data $recipe --out whole >/dev/null)
}
recipe="--weights none --size 32 --epochs 4 --batch 8 --schedule plateau --average 0.9 --drop-path 0.2"

# ---- malloc: every allocation that a program asks for fails ------------------------------------------

# fails_at N LATER COMMAND ...: 0 if the program went on as if nothing had been or ended with a sentence
fails_at() {
    at=$1 later=$2
    shift 2
    rm -rf fired out.tmp
    env FAIL_AT="$at" ${later:+FAIL_LATER=1} FAIL_MARK=fired LD_PRELOAD=./fail_malloc.so "$@" \
        >out.txt 2>err.txt
    status=$?
    if [ $status -eq 0 ]; then
        [ ! -e fired ] || cmp -s out.txt expected.txt
    else
        [ $status -lt 126 ] && grep -q '^error: \|: .*memory' err.txt
    fi && return 0
    echo "  allocation $at${later:+ and later}: status $status: $(head -1 err.txt)"
    return 1
}

part_malloc() {
    have cc && $CC -O1 -shared -fPIC tests/fail_malloc.c -o "$WORK/fail_malloc.so" 2>/dev/null ||
        { echo "left out: malloc (no glibc)"; return; }
    data && program classify && program evaluate && program convert && program check_data || return
    cd "$WORK" || return
    cp data/val/no/000000.npy one.npy
    while read -r command; do
        # shellcheck disable=SC2086
        ./$command >expected.txt 2>/dev/null
        n=1 points=0 bad=0
        while [ $points -lt $((40 * MORE)) ]; do
            for later in "" yes; do
                # shellcheck disable=SC2086
                fails_at $n "$later" ./$command || bad=$((bad + 1))
                [ -e fired ] || break 2
                points=$((points + 1))
            done
            n=$((n + 1 + (MORE < 5 ? n / 8 : 0)))
        done
        [ $bad -eq 0 ] && [ $points -gt 0 ]
        good "$command: $points failed allocations, each told or without effect"
    done <<END
classify --threads 1 --csv whole/best.safetensors one.npy
evaluate --threads 1 whole/best.safetensors data
convert whole/best.safetensors out.tmp
check_data data
END
    cd ../..
}

# ---- kill: kill -9 at any moment, then resumed bit for bit -------------------------------------------

part_kill() {
    data || return
    cd "$WORK" || return
    kills=$((8 * MORE)) same=0 resumed=0 anew=0 hit=0
    start=$(date +%s%N)
    rm -rf again
    ./train data $recipe --out again >/dev/null
    length=$((($(date +%s%N) - start) / 1000000)) # milliseconds of an undisturbed run
    i=0
    while [ $i -lt $kills ]; do
        i=$((i + 1))
        rm -rf again
        ./train data $recipe --out again >/dev/null 2>&1 &
        pid=$!
        wait_ms=$(awk -v seed=$i -v span=$length 'BEGIN { srand(seed); print int(rand() * span) / 1000 }')
        sleep "$wait_ms"
        kill -9 $pid 2>/dev/null && hit=$((hit + 1))
        wait $pid 2>/dev/null
        if [ -s again/last.safetensors ] || [ -s again/last.previous.safetensors ]; then
            resumed=$((resumed + 1))
            ./train --resume --out again >/dev/null 2>err.txt
        else
            anew=$((anew + 1))
            ./train data $recipe --out again >/dev/null 2>err.txt
        fi
        status=$?
        if cmp -s whole/best.safetensors again/best.safetensors &&
            cmp -s whole/last.safetensors again/last.safetensors &&
            cmp -s whole/history.csv again/history.csv && cmp -s whole/report.txt again/report.txt &&
            [ -z "$(find again -name '*.tmp-*')" ]; then
            same=$((same + 1))
        else
            echo "  killed after $wait_ms s, then status $status: $(head -1 err.txt)"
            ls -l again
            rm -rf "differs.$i"
            cp -r again "differs.$i"
        fi
    done
    [ $same -eq $kills ] && [ $resumed -gt 0 ]
    good "kill -9 $kills times ($hit hit, $resumed resumed, $anew begun anew): $same ended with the same bytes"
    cd ../..
}

# ---- bits and sanitize: what the suite has only in part ----------------------------------------------

part_bits() {
    $RUNNER $CC -O2 -fopenmp -I. tests/test_bits.c -o "$WORK/bits" -lm &&
        (unset LENSNET_TEST_QUICK; LENSNET_TEST_WHOLE=1 $RUNNER "$WORK/bits") >"$WORK/bits.log" 2>&1
    good "the same bits of every network, every way ($(tail -1 "$WORK/bits.log"))"
}

part_sanitize() {
    for name in test_alloc test_bits test_threads; do
        $RUNNER $CC -O1 -w -fsanitize=address,undefined -fno-sanitize-recover=all -fopenmp -I. \
            "tests/$name.c" -o "$WORK/sanitize_$name" -lm &&
            $RUNNER "$WORK/sanitize_$name" >"$WORK/sanitize_$name.log" 2>&1
        good "under the sanitizers: $name ($(tail -1 "$WORK/sanitize_$name.log"))"
    done
}

# ---- mutants: are the tests able to fail? ------------------------------------------------------------

part_mutants() {
    have python3 || { echo "left out: mutants (no python3)"; return; }
    $RUNNER python3 tests/mutate.py --count $((120 * MORE)) --seed "${SEED:-1}"
    good "at least 95 % of the mutants are killed"
}

# ---- fuzz: with coverage guidance, from the corpus ---------------------------------------------------

part_fuzz() {
    echo 'int LLVMFuzzerTestOneInput(const char *d, unsigned long n) { return !d && n; }' >"$WORK/probe.c"
    clang -fsanitize=fuzzer "$WORK/probe.c" -o "$WORK/probe" 2>/dev/null ||
        { echo "left out: fuzz (no clang with libFuzzer)"; return; }
    for name in ${FUZZERS:-fuzz_npy fuzz_picture fuzz_config fuzz_safetensors fuzz_network fuzz_torch}; do
        source=tests/$name.c
        flags="-g -w -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -DFUZZ_LIBFUZZER"
        case $name in
        fuzz_npy | fuzz_picture) flags="$flags -O1" ;;
        *) flags="$flags -O0 -DLENSNET_NO_SIMD" ;; # the header takes over ten minutes to compile at -O1, seconds so
        esac
        # shellcheck disable=SC2086
        $RUNNER clang $flags -I. "$source" -o "$WORK/$name" -lm || { false; good "$name builds"; continue; }
        mkdir -p "$WORK/corpus_$name"
        # shellcheck disable=SC2046
        $RUNNER "$WORK/$name" -max_total_time=$((${FUZZ_SECONDS:-60} * MORE)) -timeout=60 -rss_limit_mb=2048 -max_len=20000 \
            -dict=tests/fuzz.dict -print_final_stats=1 -artifact_prefix="$WORK/" "$WORK/corpus_$name" \
            $(seeds "$name") >"$WORK/$name.log" 2>&1
        good "$name: $(sed -n 's/^stat::number_of_executed_units: *//p' "$WORK/$name.log") executions, $(
            sed -n 's/.*cov: \([0-9]*\) .*/\1/p' "$WORK/$name.log" | tail -1) edges"
    done
}

seeds() {
    case $1 in
    fuzz_npy) echo tests/fixtures/npy ;;
    fuzz_picture) ls -d tests/fixtures/npy tests/fixtures/picture* 2>/dev/null ;;
    fuzz_torch) echo tests/fixtures/torch ;;
    fuzz_config) echo tests/fixtures/config ;;
    *) echo tests/fixtures/files ;;
    esac
}

# ---- coverage: lines and branches that the tests reach -----------------------------------------------

part_coverage() {
    have gcov || { echo "left out: coverage (no gcov)"; return; }
    rm -rf "$WORK/coverage"
    mkdir -p "$WORK/coverage"
    for source in tests/test_*.c; do
        name=$(basename "$source" .c)
        case $name in test_static_b | test_compile | test_static_a | test_simulate | test_crash) continue ;; esac
        $RUNNER gcc --coverage -O0 -w -fopenmp -DLENSNET_NO_AVX512 -I. "$source" \
            -o "$WORK/coverage/$name" -lm -ldl 2>/dev/null && $RUNNER "$WORK/coverage/$name" >/dev/null 2>&1
        echo "  ran $name"
    done
    python3 tests/coverage.py "$WORK/coverage" lensnet.h examples/npy.h examples/picture.h examples/fits.h \
        examples/zip.h examples/pickle.h examples/text.h examples/dataset.h
    good "coverage was measured"
}

# ---- elsewhere: other processors, C libraries, compilers, standards ----------------------------------

# What reads and writes files, rounds, or depends on the order of bytes.
portable="test_files test_host test_image test_schedule test_npy test_picture test_text"

# processor NAME RUNNER COMPILER FLAGS...: test_bits, and the tests in $portable
processor() {
    elsewhere "$@"
    name=$1 emulator=$2 compiler=$3
    shift 3
    have "$compiler" && have "$emulator" || return
    for test in $portable; do
        output=$WORK/${test}_$emulator
        $RUNNER $compiler -O1 -w -I. "$@" "tests/$test.c" -o "$output" -lm >"$output.log" 2>&1 &&
            $RUNNER $emulator "$output" >>"$output.log" 2>&1
        good "$test: $name ($(tail -1 "$output.log"))"
    done
}

# elsewhere NAME RUNNER COMPILER FLAGS...: test_bits must give the bits of tests/fixtures/bits.txt; under an
# emulator those of every network with MORE=3 only
elsewhere() {
    name=$1 emulator=$2 compiler=$3
    shift 3
    if ! have "$compiler" || { [ -n "$emulator" ] && ! have "${emulator%% *}"; }; then
        echo "left out: $name ($compiler or $emulator not found)"
        return
    fi
    output=$WORK/bits_$(echo "$name" | tr ' +' '__')
    hashes=
    [ -n "$emulator" ] && [ "$MORE" -ge 3 ] && hashes=LENSNET_TEST_HASHES=1
    # shellcheck disable=SC2086
    $RUNNER $compiler -O1 -w -I. "$@" tests/test_bits.c -o "$output" -lm >"$output.log" 2>&1 &&
        env $hashes $RUNNER $emulator "$output" >>"$output.log" 2>&1
    good "same bits: $name ($(tail -1 "$output.log"))"
}

part_elsewhere() {
    processor "s390x, big-endian (qemu)" qemu-s390x s390x-linux-gnu-gcc -static
    processor "riscv64 (qemu)" qemu-riscv64 riscv64-linux-gnu-gcc -static
    processor "aarch64 (qemu)" qemu-aarch64 aarch64-linux-gnu-gcc -static
    processor "i686 with SSE2 (qemu)" qemu-i386 i686-linux-gnu-gcc -static -msse2 -mfpmath=sse
    elsewhere "musl" "" musl-gcc -static
    elsewhere "mingw-w64 (wine)" wine x86_64-w64-mingw32-gcc -static
    for standard in c99 c11 c17 c2x; do elsewhere "gcc $standard" "" gcc -std=$standard; done
    for standard in c++11 c++14 c++17 c++20 c++23; do
        elsewhere "g++ $standard" "" g++ -x c++ -std=$standard
    done
    for level in 0 2 3 s; do elsewhere "gcc -O$level" "" gcc -O$level; done
    elsewhere "gcc -O2 -flto" "" gcc -O2 -flto -fopenmp
    elsewhere "clang -O2" "" clang -O2
    if have tcc; then
        $RUNNER tcc -DLENSNET_NO_SIMD -I. examples/hello.c -o "$WORK/hello_tcc" -lm &&
            "$WORK/hello_tcc" >/dev/null
        good "tcc: hello.c"
    else
        echo "left out: tcc"
    fi
}

# ---- load: flat memory, latency, sizes ---------------------------------------------------------------

part_load() {
    $RUNNER $CC -O2 -fopenmp -I. tests/load.c -o "$WORK/load" -lm && $RUNNER "$WORK/load" "$MORE"
    good "load"
}

# ---- survey: many images in parts, of which one at a time is on the disk ------------------------------

# peak COMMAND ...: runs it; its largest memory in MB, where there is GNU time, goes to peak.txt
peak() {
    if [ -x /usr/bin/time ]; then
        /usr/bin/time -q -f %M -o kb.txt "$@" && awk '{ printf "%.0f\n", $1 / 1024 }' kb.txt >peak.txt
    else
        "$@" && echo "?" >peak.txt
    fi
}

# survey_rows I N FILE: the images of part I of the N, one or all, as lines of a list or a table without its head
survey_rows() {
    awk -v "first=$((count / $2 * ($1 - 1) + count % $2 * ($1 - 1) / $2))" -v "end=$((count / $2 * $1 + count % $2 * $1 / $2))" \
        'NR > first && NR <= end' "$3"
}

# survey_part I N: simulates, classifies and removes a part, in a folder of its own, unless it is there already
survey_part() {
    [ -s "truth-$1-of-$2.csv" ] && tail -n 1 "part-$1.csv" | grep -q '^# part' && return
    rm -rf "job-$1"
    mkdir "job-$1" && cd "job-$1" || return
    # shellcheck disable=SC2086
    ../$simulate --part "$1/$2" >out.txt && peak ../$classify ../list.txt --part "$1/$2" "$weights" >"../part-$1.csv" &&
        mv peak.txt "../peak-$1.txt" && mv "truth-$1-of-$2.csv" ..
    cd .. && rm -rf "job-$1"
}

# SURVEY images in SURVEY_PARTS parts, SURVEY_JOBS at a time, SURVEY_SIZE pixels wide. One that was stopped goes on.
# Then all are merged; the first and the last part are made and classified once more without --part.
part_survey() {
    each=$(((${SURVEY:-3000} * MORE + 2) / 3)) parts=${SURVEY_PARTS:-7} jobs=${SURVEY_JOBS:-1} size=${SURVEY_SIZE:-32}
    count=$((3 * each)) weights=$PWD/weights/lensnet-atto.safetensors plan="$each $parts $size"
    program simulate && program classify || return
    [ "$(cat "$WORK/survey/plan" 2>/dev/null)" = "$plan" ] || rm -rf "$WORK/survey"
    mkdir -p "$WORK/survey"
    cd "$WORK/survey" || return
    echo "$plan" >plan
    for class in no sphere vort; do seq -f "test/$class/%06.0f.npy" 0 $((each - 1)); done >list.txt
    simulate="../simulate . --test $each --size $size --float32 --threads 1"
    classify="../classify --csv --size $size --threads 1 --batch 64 --list"
    started=$(date +%s)
    for job in $(seq "$jobs"); do
        for i in $(seq "$job" "$jobs" "$parts"); do
            survey_part "$i" "$parts"
            [ $((i * 10 / parts)) -eq $(((i - 1) * 10 / parts)) ] ||
                echo "  part $i of $parts after $(($(date +%s) - started)) s, $(cat "peak-$i.txt") MB"
        done &
    done
    wait
    first=$(cat peak-1.txt) last=$(cat "peak-$parts.txt")
    took=$(($(date +%s) - started))
    ../simulate . --part "1/$parts" --merge && ../classify --merge part-*.csv >answers.csv &&
        sed 1d answers.csv | cut -d, -f1 | cmp - list.txt && sed 1d truth.csv | cut -d, -f1 | cmp - list.txt
    good "survey: $count images of $size pixels in $parts parts, merged, in $took s"
    for i in 1 "$parts"; do
        survey_rows "$i" "$parts" list.txt >some.txt
        # shellcheck disable=SC2086
        rm -f truth-* && $simulate --part "$i/$parts" >out.txt && $classify some.txt "$weights" | sed 1d >once.txt
        rm -rf test
        sed 1d answers.csv >rows.txt && survey_rows "$i" "$parts" rows.txt | cmp - once.txt
        good "part $i of $parts is what an undivided run says of these images"
    done
    [ "$first" = "?" ] || [ "$last" -le $((first + 1)) ]
    good "the first part took $first MB, the last $last MB"
    rm plan
    cd ../../..
}

# ---- all together ------------------------------------------------------------------------------------

parts="malloc kill bits sanitize mutants fuzz coverage elsewhere load survey"
if [ "$1" = --sample ]; then
    # of those that are quick; the others take too long for every day
    turn=$((${2:-0} % 4))
    FUZZERS="fuzz_npy fuzz_picture fuzz_torch fuzz_config" FUZZ_SECONDS=15
    set -- malloc kill fuzz load
    shift $turn
    set -- "$1"
elif [ $# -eq 0 ]; then
    # shellcheck disable=SC2086
    set -- $parts
fi
for part in "$@"; do
    case " $parts " in *" $part "*) ;; *) echo "there is no part $part; $parts" && exit 2 ;; esac
    echo "== $part"
    "part_$part"
done
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
