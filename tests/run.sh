#!/bin/sh
# run.sh - builds and runs every test, and closes with "N passed, N failed".
#
#   sh tests/run.sh            everything, two jobs at a time (JOBS=n for another number)
#   sh tests/run.sh NAME ...   only the jobs whose names begin so, e.g. "test_" or "compile"
#
# Needs a C compiler (CC, default cc) and an ordinary POSIX system. What else it can use (clang, a C++
# compiler, OpenMP, sanitizers, valgrind, an aarch64 compiler with qemu, Python) it uses; what is
# missing is said and counted as skipped. A program is built by the very cc line in its first comment.
# Everything made goes to build/, which git ignores.

cd "$(dirname "$0")/.." || exit 1
CC=${CC:-cc}
BUILD=build/tests
WARNINGS="-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror"
OMP_WAIT_POLICY=passive # jobs share the cores
export CC OMP_WAIT_POLICY

# ---- reporting: a job leaves "passed failed skipped values" in $BUILD/NAME.result ---------------------
#
# One "passed" is one named check of a promise. A check in a loop counts once, and the values that it
# compared are reported beside it; a program that runs again, elsewhere (another compiler, sanitizers,
# an emulator), counts as one check: that everything in it holds there too.

have() { command -v "$1" >/dev/null 2>&1; }

# report NAME passed failed skipped text [values]
report() {
    now=$(date +%s)
    echo "$2 $3 $4 ${6:-0}" >"$BUILD/$1.result"
    printf '%-34s %s (%d s)\n' "$1" "$5" $((now - ${job_started:-$now}))
    job_started=$now
}

# check NAME log: one check, good if the last command was (call it as: command; check ...)
check() {
    if [ $? -eq 0 ]; then
        report "$1" 1 0 0 "passed"
    else
        report "$1" 0 1 0 "FAILED"
        sed 's/^/    /' "$2" | head -60
    fi
}

skip() { report "$1" 0 0 1 "skipped: $2"; }

# ---- building ----------------------------------------------------------------------------------------

# cc_line FILE: the build line in its first comment, up to "&&", two spaces or the comment's end, with
# continuation lines joined; nothing if it has none
cc_line() {
    awk '!found && /(^|[ *])cc -/ { found = 1; sub(/^.*cc -/, "cc -") }
         found { line = $0; sub(/^[ *]+/, "", line); sub(/ *\*\/.*$/, "", line)
                 sub(/ *&&.*$/, "", line); more = sub(/ *\\$/, "", line); sub(/   *.*$/, "", line)
                 printf "%s ", line; if (!more) { print ""; exit } }
         /\*\// { exit }' "$1"
}

# links FLAGS...: can $CC make a program with them?
links() {
    echo 'int main(void) { return 0; }' >"$BUILD/probe.$$.c"
    $CC "$@" "$BUILD/probe.$$.c" -o "$BUILD/probe.$$" >/dev/null 2>&1
    good=$?
    rm -f "$BUILD/probe.$$.c" "$BUILD/probe.$$"
    return $good
}

# build FILE OUTPUT FLAGS...: by the file's own line, plus FLAGS
build() {
    file=$1 output=$2
    shift 2
    line=$(cc_line "$file" | sed "s|^cc |$CC |; s|-o [^ ]*|$* -o $output|")
    [ -n "$line" ] || { echo "$file: no cc line in its first comment"; return 1; }
    links -fopenmp || line=$(echo "$line" | sed 's/-fopenmp//')
    echo "$line"
    eval "$line"
}

# run_counted NAME PROGRAM LOG: runs a test program and takes over its counts; with ELSEWHERE set all
# that passes counts as one
run_counted() {
    $RUNNER "$2" >>"$3" 2>&1
    status=$?
    # test_private.c closes with such a line for each of its tests
    passed=$(awk '/^[0-9]+ passed, [0-9]+ failed$/ { n += $1 } END { print n + 0 }' "$3")
    failed=$(awk '/^[0-9]+ passed, [0-9]+ failed$/ { n += $3 } END { print n + 0 }' "$3")
    values=$(sed -n 's/^\([0-9]*\) values compared$/\1/p' "$3" | tail -1)
    [ $status -ne 0 ] && [ "$failed" -eq 0 ] && failed=1 && echo "ended with status $status" >>"$3"
    text="$passed passed, $failed failed${values:+, $values values}"
    [ -n "$ELSEWHERE" ] && [ "$passed" -gt 0 ] && passed=1
    report "$1" "$passed" "$failed" 0 "$text" "$values"
    if [ "$failed" -ne 0 ]; then sed 's/^/    /' "$3" | head -60; else grep '^note: ' "$3"; fi
    [ "$failed" -eq 0 ]
}

# build_and_run NAME FILE FLAGS...
build_and_run() {
    name=$1 source=$2
    shift 2
    if build "$source" "$BUILD/$name" "$@" >"$BUILD/$name.log" 2>&1; then
        run_counted "$name" "$BUILD/$name" "$BUILD/$name.log"
    else
        false
        check "$name" "$BUILD/$name.log"
        return 1
    fi
}

# build_library OUTPUT FLAGS...: the implementation alone, for what calls nothing private. Programs are
# then built by their own line, -DLENSNET_IMPLEMENTED and this object: compiling the implementation is
# most of a test's time, so the suite does it once for a configuration.
build_library() {
    output=$1
    shift
    printf '#define LENSNET_IMPLEMENTATION\n#include "lensnet.h"\n' >"$output.c"
    links -fopenmp && set -- -fopenmp "$@"
    $CC -O2 "$@" -I. -c "$output.c" -o "$output" >"$output.log" 2>&1
}

# library: waits for the job that builds the suite's own object, and says how to use it
library() {
    while [ ! -f $BUILD/library.done ]; do sleep 0.2; done
    echo "-DLENSNET_IMPLEMENTED $BUILD/library.o"
}

# Does a program hold the implementation, itself or in a file that it includes, and yet call nothing private?
is_public() {
    # shellcheck disable=SC2046
    set -- $($CC -MM -I. "$1" | tr ' \\' '\n\n' | grep '\.[ch]' | grep -vE '(^|/)lensnet\.h$')
    grep -q '^ *#define LENSNET_IMPLEMENTATION' "$@" &&
        ! grep -qE 'lnp_|LNP_|LENSNET_STATIC|_MALLOC' "$@"
}

# ---- the jobs ----------------------------------------------------------------------------------------

# The implementation as everything below uses it: at -O2, where gcc warns of more.
job_library() {
    # shellcheck disable=SC2086
    build_library $BUILD/library.o $WARNINGS
    check library $BUILD/library.o.log
    : >$BUILD/library.done
}

# job_compile COMPILER STANDARD: the warning matrix, with and without OpenMP. gcc warns of unused functions
# and of values that may not be set only where it makes code: the library does so at -O2, one of each pair
# here at -O0.
job_compile() {
    case $2 in *++*) source=tests/test_compile.cpp ;; *) source=tests/test_compile.c ;; esac
    for openmp in -fopenmp ""; do
        name=compile_$1_$2${openmp:+_openmp}
        target=-fsyntax-only
        case $1$openmp in clang*) ;; *) [ -n "$openmp" ] || target="-O0 -c -o $BUILD/$name.o" ;; esac
        # shellcheck disable=SC2086
        $1 -std=$2 $WARNINGS $openmp -I. $target "$source" >"$BUILD/$name.log" 2>&1
        check "$name" "$BUILD/$name.log"
    done
}

# What leaves an object file, and what it takes from the C library: no printing, no ending the host,
# no generator, no function of libm but those that IEEE 754 fixes.
job_symbols() {
    have nm || { skip symbols "nm not found"; return; }
    library >/dev/null
    log=$BUILD/symbols.log
    : >"$log"
    nm -g $BUILD/library.o | awk 'NF == 3 { print $3 }' | sed 's/^_*//' | sort >"$BUILD/symbols.out" &&
        ! grep -v '^lensnet_' "$BUILD/symbols.out" >>"$log" && grep -q . "$BUILD/symbols.out"
    check symbols "$log"
    nm -u $BUILD/library.o | awk '{ print $NF }' | sed 's/^_*//; s/@.*//' >"$BUILD/symbols.in"
    ! grep -xE 'exit|_Exit|abort|assert_fail|s?rand(om)?|getenv|v?f?printf(_chk)?|put(s|char|c)|signal' \
        "$BUILD/symbols.in" >"$log"
    check symbols_host "$log"
    ! grep -xE '(exp|exp2|expm1|log|log2|log10|log1p|pow|sin|cos|sincos|tan|tanh|erf|erfc|cbrt|fma)[fl]?' \
        "$BUILD/symbols.in" >"$log"
    check symbols_libm "$log"
    $CC -O0 -I. -DLENSNET_STATIC -c $BUILD/library.o.c -o "$BUILD/symbols_static.o" >"$log" 2>&1 &&
        ! nm -g "$BUILD/symbols_static.o" | awk 'NF == 3' >>"$log"
    [ ! -s "$log" ]
    check symbols_static "$log"
}

# Every switch of the header compiles, and fast-math is refused by name.
job_switches() {
    ELSEWHERE=yes
    build_and_run switch_LENSNET_NO_AVX512 tests/test_compile.c -O0 -DLENSNET_NO_AVX512
    name=switch_malloc
    # shellcheck disable=SC2086
    $CC -O0 $WARNINGS -I. '-DLENSNET_MALLOC(n)=other_malloc(n)' '-DLENSNET_FREE(p)=other_free(p)' \
        -DTEST_OTHER_MALLOC tests/test_compile.c -o "$BUILD/$name" -lm >"$BUILD/$name.log" 2>&1 &&
        "$BUILD/$name" >>"$BUILD/$name.log" 2>&1
    check $name "$BUILD/$name.log"
    name=switch_fast_math
    $CC -O2 -ffast-math -I. -fsyntax-only tests/test_compile.c >"$BUILD/$name.log" 2>&1
    grep -q 'fast-math' "$BUILD/$name.log"
    check $name "$BUILD/$name.log"
    # the parts of fast-math that no macro announces
    build_and_run switch_associative_math tests/test_compile.c -O1 -DTEST_INEXACT -DLENSNET_NO_SIMD \
        -fassociative-math -fno-signed-zeros -fno-trapping-math
    if have clang; then
        (CC=clang; build_and_run switch_clang_contraction tests/test_compile.c -O1 -DTEST_INEXACT \
            -ffp-contract=fast)
    else
        skip switch_clang_contraction "clang not found"
    fi
}

# A test by itself. What calls private functions holds the implementation: at -O1, which compiles in half
# the time; -O2 is that of the library.
job_test() {
    case $1 in
    test_static_a) build_and_run "$1" "tests/$1.c" -O0 ;;
    *) if is_public "tests/$1.c"; then
        # shellcheck disable=SC2046
        build_and_run "$1" "tests/$1.c" $(library)
    else
        build_and_run "$1" "tests/$1.c" -O1
    fi ;;
    esac
}

# The same bits from other compilers, with contraction for this very processor, without vectors. test_bits
# compares with hashes in tests/fixtures; LENSNET_TEST_QUICK leaves out what takes long. More compilers,
# levels and standards are in tests/long.sh elsewhere.
job_bits() {
    LENSNET_TEST_QUICK=1 ELSEWHERE=yes
    export LENSNET_TEST_QUICK
    case $1 in
    native) if links -march=native; then
        with_library bits_native_contract "-march=native -ffp-contract=fast" test_bits
    else skip bits_native_contract "$CC has no -march=native"; fi ;;
    clang) if have clang; then
        (CC=clang; with_library bits_clang "-std=c99 $WARNINGS" test_bits)
    else skip bits_clang "clang not found"; fi ;;
    plain) with_library bits_plain "-O1 -DLENSNET_NO_SIMD" test_bits test_compile ;;
    esac
}

# with_library PREFIX FLAGS TEST...
with_library() {
    prefix=$1 flags=$2
    shift 2
    # shellcheck disable=SC2086
    build_library "$BUILD/$prefix.o" $flags
    check "${prefix}_library" "$BUILD/$prefix.o.log"
    [ -f "$BUILD/$prefix.o" ] || return
    for test in "$@"; do
        # shellcheck disable=SC2086
        [ -f "tests/$test.c" ] && build_and_run "${prefix}_$test" "tests/$test.c" ${flags%%-std*} -O1 \
            -DLENSNET_IMPLEMENTED "$BUILD/$prefix.o"
    done
}

# job_sanitize TEST: a test that calls private functions, else (no TEST) those that do not.
job_sanitize() {
    LENSNET_TEST_QUICK=1 ELSEWHERE=yes ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1
    export LENSNET_TEST_QUICK ASAN_OPTIONS
    flags="-fsanitize=address,undefined -fno-sanitize-recover=all -O1"
    if ! links -fsanitize=address,undefined; then
        skip "sanitize${1:+_$1}" "$CC cannot link with sanitizers"
    elif [ -n "$1" ]; then
        # shellcheck disable=SC2086
        build_and_run "sanitize_$1" "tests/$1.c" $flags
    else
        with_library sanitize "$flags" test_model test_train test_host test_faults test_classify test_gradients
    fi
}

# Teams: test_threads as it is, and where OpenMP grants fewer threads than asked for or nests, where there is no OpenMP, and with
# LLVM's; there, with archer, ThreadSanitizer knows what OpenMP's regions order.
job_teams() {
    name=test_threads
    build_and_run $name tests/test_threads.c -O1
    LENSNET_TEST_QUICK=1 ELSEWHERE=yes
    export LENSNET_TEST_QUICK
    for setting in OMP_THREAD_LIMIT=2 OMP_DYNAMIC=true OMP_MAX_ACTIVE_LEVELS=3 OMP_WAIT_POLICY=active; do
        (export "${setting?}"; : >"$BUILD/teams_$setting.log"
        run_counted "teams_$setting" "$BUILD/$name" "$BUILD/teams_$setting.log")
    done
    build_and_run teams_none tests/test_threads.c -O0 -fno-openmp -Wno-unknown-pragmas
    if ! have clang || ! (CC=clang; links -fopenmp -fsanitize=thread); then
        skip teams_race "clang cannot link with -fopenmp and -fsanitize=thread"
        return
    fi
    OMP_TOOL_LIBRARIES=$(clang -print-file-name=libarcher.so)
    TSAN_OPTIONS="ignore_noninstrumented_modules=1 die_after_fork=0 exitcode=66"
    export OMP_TOOL_LIBRARIES TSAN_OPTIONS
    have setarch && RUNNER="setarch -R"
    (CC=clang; build_and_run teams_race tests/test_threads.c -O1 -g -DLENSNET_NO_SIMD -fsanitize=thread)
}

# NEON, under an emulator.
job_aarch64() {
    if have aarch64-linux-gnu-gcc && have qemu-aarch64; then
        LENSNET_TEST_QUICK=1 ELSEWHERE=yes RUNNER=qemu-aarch64
        export LENSNET_TEST_QUICK
        (CC=aarch64-linux-gnu-gcc; with_library aarch64 "-O1 -static" test_bits test_gradients)
    else
        skip aarch64 "aarch64-linux-gnu-gcc or qemu-aarch64 not found"
    fi
}

# Instructions of one forward pass: repeatable to a few parts in a million, so that a slow-down is seen
# on a noisy machine too. valgrind knows no AVX-512, so this is the AVX2 path.
job_instructions() {
    name=instructions
    have valgrind || { skip $name "valgrind not found"; return; }
    log=$BUILD/$name.log
    # shellcheck disable=SC2046
    build tests/forward_once.c "$BUILD/$name" $(library) >"$log" 2>&1 &&
        valgrind --tool=callgrind --callgrind-out-file=/dev/null --toggle-collect=lensnet_forward \
            "$BUILD/$name" >>"$log" 2>&1 && grep -q 'Collected : [1-9]' "$log"
    check $name "$log"
    count=$(sed -n 's/.*Collected : //p' "$log")
    echo "note: one forward pass of atto at 64 x 64, AVX2, 1 thread: ${count:-?} instructions"
}

# A program of examples/ or tools/ compiles without a warning by its own line. Other jobs that need it call
# this too; whoever comes first builds it.
job_program() {
    name=$(echo "$1" | sed 's|/|_|g; s|\.c$||')
    if ! mkdir "$BUILD/claim.$name" 2>/dev/null; then
        while [ ! -f "$BUILD/$name.result" ]; do sleep 0.2; done
        return
    fi
    how=
    if is_public "$1"; then how=$(library); else case $1 in tools/*) how=-O1 ;; esac; fi
    # shellcheck disable=SC2086
    build "$1" "$BUILD/$name" -Wall -Wextra -Werror $how >"$BUILD/$name.log" 2>&1
    check "$name" "$BUILD/$name.log"
}

# The programs compile for Windows, and one is linked; under wine, where that is installed, it gives the same
# answer to the last digit.
job_windows() {
    windows=x86_64-w64-mingw32-gcc
    have $windows || { skip windows "$windows not found"; return; }
    for source in examples/train.c examples/evaluate.c examples/hello.c tools/check_data.c tools/simulate.c tools/convert.c; do
        name=windows_$(basename $source .c)
        $windows -fsyntax-only -Werror=implicit-function-declaration $source >"$BUILD/$name.log" 2>&1
        check "$name" "$BUILD/$name.log"
    done
    log=$BUILD/windows_classify.log
    $windows -O0 -w examples/classify.c -o "$BUILD/classify.exe" -lm >"$log" 2>&1
    check windows_classify "$log"
    have wine || { skip windows_wine "wine not found"; return; }
    job_program examples/classify.c
    set -- --csv weights/lensnet-atto.safetensors examples/images/lens-01.npy
    WINEDEBUG=-all wine "$BUILD/classify.exe" "$@" 2>"$log" | tr -d '\r' >"$BUILD/windows.csv"
    "$BUILD/examples_classify" "$@" | diff - "$BUILD/windows.csv" >>"$log" 2>&1
    check windows_wine "$log"
}

# Arbitrary bytes as files, under the sanitizers: a program of tests/fuzz_*.c counts as one check.
job_fuzz() {
    log=$BUILD/$1.log
    if links -fsanitize=address,undefined; then
        build "tests/$1.c" "$BUILD/$1" -g0 >"$log" 2>&1 && "$BUILD/$1" >>"$log" 2>&1
        check "$1" "$log"
    else
        skip "$1" "$CC cannot link with sanitizers"
    fi
}

# The C blocks of the README: whole programs are linked, parts that include the header are compiled.
job_readme() {
    [ -f README.md ] || { skip readme "no README.md"; return; }
    rm -f "$BUILD"/readme_*.c
    awk -v prefix="$BUILD/readme_" '/^```c$/ { n++; file = prefix n ".c"; next }
        /^```/ { file = "" } file { print > file }' README.md
    for source in "$BUILD"/readme_*.c; do
        [ -f "$source" ] || { skip readme "README.md has no C block"; return; }
        name=$(basename "$source" .c)
        grep -q 'include "lensnet.h"' "$source" || continue
        how="-DLENSNET_IMPLEMENTED -c -o $BUILD/$name.o"
        grep -q 'int main' "$source" && how="$(library) -o $BUILD/$name -lm" && links -fopenmp && how="-fopenmp $how"
        # shellcheck disable=SC2086
        $CC -O2 -Wall -Wextra -Werror -I. -Iexamples "$source" $how >"$BUILD/$name.log" 2>&1
        check "$name" "$BUILD/$name.log"
    done
}

# The first program of the header, as its comment shows it: compiled, and run where its weights are.
job_first_program() {
    source=$BUILD/first_program.c
    log=$BUILD/first_program.log
    sed -n '/^ \*  *#define LENSNET_IMPLEMENTATION/,/^ \*     }/s/^ \* *//p' lensnet.h >"$source"
    $CC -O0 -Wall -Wextra -Werror -I. "$source" -o "$BUILD/first_program" -lm >"$log" 2>&1 &&
        "$BUILD/first_program" >>"$log" 2>&1 && grep -Eq '^[a-z]+ [0-9]+\.[0-9] %$' "$log"
    check first_program "$log"
}

# Every description of an operator in the header is named by a recording call that the tests of
# gradients call; the fused block is compared with its plain operators, bit by bit.
job_operators() {
    log=$BUILD/operators.log
    awk '/^(static )?(lensnet_tensor|void) (lensnet|lnp)_[a-z0-9_]*\(/ {
            name = $0; sub(/\(.*/, "", name); sub(/.* /, "", name) }
        /^static const lensnet_operator / { described[$4] = 1; name = "" }
        name != "" && match($0, /&lnp_[a-z0-9_]+/) { by[substr($0, RSTART + 1, RLENGTH - 1)] = name }
        /^}/ { name = "" }
        END { for (d in described) print d, (d in by) ? by[d] : "-" }' lensnet.h |
        sort >"$BUILD/operators"
    [ "$(wc -l <"$BUILD/operators")" -ge 15 ] && while read -r description call; do
        [ "$call" = lnp_record_block ] && grep -q 'options.plain' tests/test_bits.c && continue
        grep -q "$call(" tests/test_gradients.c tests/test_losses.c && continue
        echo "$description: recorded by $call, of which tests/test_gradients.c knows nothing"
    done <"$BUILD/operators" >"$log"
    [ ! -s "$log" ]
    check operators "$log"
}

# The header's table of contents names every section, in order.
job_sections() {
    have python3 || { skip sections "python3 not found"; return; }
    python3 tools/check_sections.py lensnet.h >"$BUILD/sections.log" 2>&1
    check sections "$BUILD/sections.log"
}

# examples/lensnet.py beside the C program (built by its own job before, or here).
job_python() {
    (have python3 && python3 -c 'import numpy') 2>/dev/null ||
        { skip python "python3 with numpy not found"; return; }
    job_program examples/classify.c
    log=$BUILD/python.log classify=$BUILD/examples_classify
    : >"$log"
    CFLAGS=-O1 XDG_CACHE_HOME=$BUILD/cache
    export CFLAGS XDG_CACHE_HOME
    printf '#!/bin/sh\nexec python3 tests/test_lensnet.py %s\n' "$classify" >"$BUILD/python.sh"
    (RUNNER=sh; run_counted python "$BUILD/python.sh" "$log")
}

# The header as a target of CMake, built and run, and lensnet.pc.
job_packages() {
    have cmake || { skip packages "cmake not found"; return; }
    log=$BUILD/packages.log place=$BUILD/packages
    mkdir -p "$place"
    printf 'cmake_minimum_required(VERSION 3.14)\nproject(user C)\nadd_subdirectory(%s/tools lensnet)
add_executable(user user.c)\ntarget_link_libraries(user lensnet::lensnet)\n' "$PWD" \
        >"$place/CMakeLists.txt"
    printf '#include "lensnet.h"\n#include <stdio.h>
int main(void) { return puts(lensnet_isa_text(lensnet_isa_in_use(NULL))) < 0; }\n' >"$place/user.c"
    cmake -S "$place" -B "$place/build" -DCMAKE_BUILD_TYPE=Debug >"$log" 2>&1 &&
        cmake --build "$place/build" >>"$log" 2>&1 && "$place/build/user" >>"$log" 2>&1 &&
        grep -q '^Libs: .*-llensnet .*-lm$' "$place/build/lensnet/lensnet.pc" &&
        { ! have pkg-config || PKG_CONFIG_PATH=$place/build/lensnet pkg-config --cflags --libs \
            lensnet >>"$log" 2>&1; }
    check packages "$log"
}

# The example programs on small data; tests/programs.sh closes with counts like a test program.
job_programs() {
    [ -f tests/programs.sh ] || { skip programs "no tests/programs.sh"; return; }
    : >"$BUILD/programs.log"
    for source in train classify evaluate hello finetune own_network own_operator; do
        job_program examples/$source.c
    done
    job_program tools/simulate.c
    job_program tools/check_data.c
    job_program tools/convert.c
    job_program tools/grow.c
    PROGRAMS=$PWD/$BUILD
    export PROGRAMS
    (RUNNER=sh; run_counted programs tests/programs.sh "$BUILD/programs.log")
}

# Training over MPI, with as many processes as this machine is told to have.
job_cluster() {
    (have mpicc && have mpirun) || { skip cluster "mpicc and mpirun (Open MPI or MPICH) not found"; return; }
    : >"$BUILD/cluster.log"
    job_program examples/train.c
    job_program tools/simulate.c
    TRAIN=$PWD/$BUILD/examples_train SIMULATE=$PWD/$BUILD/tools_simulate LIBRARY=$(library)
    export TRAIN SIMULATE LIBRARY
    printf '#!/bin/sh\nexec sh tests/cluster.sh\n' >"$BUILD/cluster.sh"
    (RUNNER=sh; run_counted cluster "$BUILD/cluster.sh" "$BUILD/cluster.log")
}

# A failure that is planted must be seen, by the test program and by this script.
job_planted() {
    log=$BUILD/planted.log
    (
        LENSNET_TEST_FAIL=1 BUILD=$BUILD/planted
        export LENSNET_TEST_FAIL
        mkdir -p "$BUILD"
        ! build_and_run planted tests/test_compile.c -O0 -DLENSNET_NO_SIMD && grep -q '^[0-9]* 1 0 ' "$BUILD/planted.result"
    ) >"$log" 2>&1
    check planted_failure "$log"
}

# ---- all together ------------------------------------------------------------------------------------

# have_own_place COUNT: of the lines "test NAME" those that no other line stands for; if jobs were asked for by
# name (COUNT of them), what tests/test_private.c holds can be one
have_own_place() {
    grep -v -e 'test_threads$' -e 'test_bits$' -e 'test_private$' |
        if [ "$1" -gt 0 ]; then cat; else
            grep -v "$(sed -n 's/^#include "\(test_[a-z]*\)\.c"$/ \1$/p' tests/test_private.c)"
        fi
}

# all_jobs COUNT: longest first, so that both lanes end at about the same time; the library before what waits for it.
all_jobs() {
    echo "library"
    echo "sanitize"
    for source in train evaluate classify; do echo "program examples/$source.c"; done
    echo "programs"
    echo "cluster"
    echo "test test_private"
    echo "test test_bits"
    echo "teams"
    echo "aarch64"
    echo "sanitize test_private"
    for mode in plain clang native; do echo "bits $mode"; done
    for source in tests/fuzz_*.c; do echo "fuzz $(basename "$source" .c)"; done
    for source in tests/test_*.c; do
        [ -n "$(cc_line "$source")" ] && echo "test $(basename "$source" .c)"
    done | have_own_place "$1" | sort
    echo "switches"
    for source in examples/*.c tools/*.c; do echo "program $source"; done
    for compiler in gcc clang; do
        if [ $compiler = gcc ] && ! have gcc; then compiler=$CC; fi
        for standard in c99 c11; do echo "compile $compiler $standard"; done
    done
    for compiler in g++ clang++; do
        for standard in c++11 c++20; do echo "compile $compiler $standard"; done
    done
    for job in python packages instructions windows symbols readme first_program operators sections planted; do
        echo "$job"
    done
}

if [ "$1" = --job ]; then
    shift
    job_started=$(date +%s)
    job=$1
    shift
    if [ "$job" = compile ] && ! have "$1"; then
        skip "compile_$1_$2" "$1 not found"
    elif [ "$job" = compile ] && ! (CC=$1; links -fopenmp); then
        skip "compile_$1_$2" "$1 cannot link with -fopenmp"
    else
        "job_$job" "$@"
    fi
    exit 0
fi

mkdir -p $BUILD
rm -rf $BUILD/*.result $BUILD/library.done $BUILD/claim.*
started=$(date +%s) job_started=$(date +%s)
# for the tests that set a locale whose point is a comma
if have localedef && localedef -i de_DE -f UTF-8 "$PWD/$BUILD/de_DE.UTF-8" >/dev/null 2>&1; then
    LOCPATH=$PWD/$BUILD
    export LOCPATH
fi
all_jobs $# | while read -r job; do
    name=$(echo "$job" | tr ' ' '_')
    if [ $# -eq 0 ] || [ "$job" = library ]; then
        echo "$job"
    else
        for wanted in "$@"; do
            case $name in $wanted* | test_$wanted*) echo "$job"; break ;; esac
        done
    fi
done | xargs -P "${JOBS:-2}" -I '{}' sh -c 'sh tests/run.sh --job {}'

totals=$(cat $BUILD/*.result 2>/dev/null | awk '{ p += $1; f += $2; s += $3; v += $4 }
    END { printf "%d %d %d %.0f", p, f, s, v }')
# shellcheck disable=SC2086
set -- $totals
[ "$1" -eq 0 ] && [ "$2" -eq 0 ] && set -- 0 1 "$3" "$4" && echo "nothing was run"
echo "$4 values compared, $3 skipped, $(($(date +%s) - started)) seconds"
echo "$1 passed, $2 failed"
[ "$2" -eq 0 ]
