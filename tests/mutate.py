#!/usr/bin/env python3
"""mutate.py - are the tests able to fail? Plants small faults in lensnet.h and sees which tests notice.

    python3 tests/mutate.py                    120 mutants drawn over all rooms of the implementation
    python3 tests/mutate.py --count 20 --seed 7 --rooms gemm,archives
    python3 tests/mutate.py --list             only shows them

Operators (+ to -, * to twice), comparisons (< to <=), conditions (negated, && and || cut short), constants
(one more, or doubled) and statements (dropped), one a line, at places drawn by the seed. All are built
into one header and chosen at run time by LENSNET_MUTANT, so that each test is compiled once. A mutant is
killed by a test that fails, crashes or does not end. Survivors are listed; the exit status says whether
at least 95 % were killed. Needs a C compiler; works in build/mutants.
"""
import argparse
import os
import random
import re
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
WORK = os.path.join(ROOT, "build", "mutants")
CC = os.environ.get("CC", "cc").split()
RUNNER = os.environ.get("RUNNER", "").split()  # stands before each command, e.g. nice
FLAGS = ["-O1", "-w", "-fopenmp", "-I" + WORK, "-I" + ROOT]

# The tests that hold the promises of a room, quickest first.
GENERAL = ["test_gradients", "test_train", "test_model", "test_bits"]
TESTS = {
    "platform": ["test_host", "test_faults", "test_classify", "test_train", "test_alloc"],
    "host": ["test_host", "test_faults", "test_crash", "test_files"],
    "math": ["test_math", "test_metrics"],
    "rows": ["test_rows"],
    "gemm-tiles": ["test_gemm"],
    "gemm": ["test_gemm"],
    "bfloat": ["test_gemm", "test_gradients", "test_rows"],
    "vectors": ["test_rows", "test_gemm"],
    "isa": ["test_math", "test_classify", "test_rows"],
    "depthwise": ["test_depthwise"],
    "threads": ["test_threads"],
    "parameters": ["test_faults"] + GENERAL,
    "safetensors": ["test_files", "test_faults"],
    "checkpoints": ["test_files", "test_faults", "test_model"],
    "image": ["test_image", "test_pixels", "test_classify"],
    "schedule": ["test_schedule"],
    "adamw-impl": ["test_train"],
    "figures": ["test_metrics"],
    "convnext-v2": ["test_files", "test_faults", "test_train", "test_model"],
    "classify-impl": ["test_classify", "test_faults"],
}

HOOK = """
static volatile int lnp_mutant;
__attribute__((constructor)) static void lnp_mutant_begin(void)
{
    const char *text = getenv("LENSNET_MUTANT");
    lnp_mutant = text ? atoi(text) : 0;
}
#define LNP_IS(k) (lnp_mutant == (k))
"""

NUMBER = re.compile(r"(?<![\w.\"'\\])(\d+\.\d*(?:e[-+]?\d+)?f?|\d+e[-+]?\d+f?|\d+u?)(?![\w.'\"])")
DECLARATION = re.compile(r"^\s*(static |const |struct |unsigned |float |double |int |char |size_t "
                         r"|u?int\d+_t |lnp_\w+ |lensnet_\w+ )[\w\s,*]*\[")
STATEMENT = re.compile(r"^(\s+)((?:\*?[A-Za-z_][\w.\[\]>+-]*(?:->\w+)*)(?: (?:=|\+=|-=|\|=|\*=) .*|\(.*\)));$")


def masked(line):
    """The line with strings and comments blanked, at equal length."""
    return re.sub(r'"(?:[^"\\]|\\.)*"|/\*.*?\*/|/\*.*$|\'(?:[^\'\\]|\\.)*\'',
                  lambda m: " " * len(m.group()), line)


def closing(text, start):
    """Index of the bracket that closes the one at start; -1 if it is on another line."""
    depth = 0
    for i in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        if depth == 0:
            return i
    return -1


def changes(line, following):
    """All changes of a line: (kind, function of the mutant's number that gives the new line)."""
    code = masked(line)
    found = []

    def put(kind, at, end, text):
        found.append((kind, lambda k: line[:at] + text % {"k": k} + line[end:]))

    for m in re.finditer(r" (<|>|==|!=) ", code):
        put(m.group(1), m.start(), m.end(), " %s LNP_IS(%%(k)d) + " % m.group(1))
    for m in re.finditer(r" (<=|>=) ", code):
        put(m.group(1), m.start(), m.end(), " + LNP_IS(%%(k)d) %s " % m.group(1))
    for m in re.finditer(r"(?<=[\w)\]]) \+ (?=[\w(])", code):
        put("+", m.start(), m.end(), " + (LNP_IS(%(k)d) ? -1 : 1) * ")
    for m in re.finditer(r"(?<=[\w)\]]) \* (?=[\w(])", code):
        put("*", m.start(), m.end(), " * (LNP_IS(%(k)d) ? 2 : 1) * ")
    for m in re.finditer(r" && ", code):
        put("&&", m.start(), m.end(), " && !LNP_IS(%(k)d) && ")
    for m in re.finditer(r" \|\| ", code):
        put("||", m.start(), m.end(), " || LNP_IS(%(k)d) || ")
    m = re.match(r"^\s+(?:\} else )?if \(", code)
    if m and closing(code, m.end() - 1) > 0:
        end = closing(code, m.end() - 1)
        put("if", m.end(), end, "LNP_IS(%(k)d) != !!(" + line[m.end():end].replace("%", "%%") + ")")
    if not DECLARATION.match(code):
        for m in NUMBER.finditer(code):
            number = m.group(1)
            real = re.search(r"[.e]", number) and float(number.rstrip("f")) != 0
            put("constant", m.start(), m.end(), "(" + number + (
                " * (LNP_IS(%(k)d) ? 2 : 1))" if real else " + LNP_IS(%(k)d))"))
    m = STATEMENT.match(code.rstrip())
    if m and not following.strip().startswith("else") and not code.strip().startswith("return"):
        put("dropped", len(m.group(1)), len(m.group(1)), "if (!LNP_IS(%(k)d)) ")
    return found


def read_points(lines):
    """Per room of the implementation: the lines that can be changed."""
    rooms, room, comment, macro, private = {}, None, False, False, False
    for n, line in enumerate(lines):
        if "#define LENSNET_IMPLEMENTED" in line:
            private = True
        mark = re.match(r"^ \* >>([\w-]+)", line)
        if mark:
            room = mark.group(1)
        inside = comment or macro or not private or room is None
        comment = (comment or "/*" in line) and "*/" not in line[line.find("/*") + 2:]
        starts = line.lstrip().startswith("#")
        macro = (macro or starts) and line.rstrip().endswith("\\")
        if inside or starts or comment or not line.startswith("    "):
            continue
        options = changes(line, lines[n + 1] if n + 1 < len(lines) else "")
        if options:
            rooms.setdefault(room, []).append((n, options))
    return rooms


def draw(rooms, count, chance, banned):
    """`count` mutants (line, kind, function), as many from each room as its turn allows."""
    pools = {}
    for room, points in sorted(rooms.items()):
        pool = [p for p in points if p[0] not in banned]
        chance.shuffle(pool)
        pools[room] = pool
    mutants = []
    while len(mutants) < count and any(pools.values()):
        for room in sorted(pools):
            if pools[room] and len(mutants) < count:
                n, options = pools[room].pop()
                # a kind first, then a place of that kind: else all were constants
                kind = chance.choice(sorted({o[0] for o in options}))
                mutants.append((room, n) + chance.choice([o for o in options if o[0] == kind]))
    return mutants


def write_header(lines, mutants):
    changed = list(lines)
    for k, (_, n, _, make) in enumerate(mutants, 1):
        changed[n] = make(k)
    text = "\n".join(changed)
    place = text.index("#include <string.h>", text.index("#define LENSNET_IMPLEMENTED"))
    place = text.index("\n", place) + 1
    with open(os.path.join(WORK, "lensnet.h"), "w") as f:
        f.write(text[:place] + HOOK + text[place:])
    return text[:place].count("\n")


def wrong_lines(hook):
    """Lines of the original header that do not compile when changed."""
    source = os.path.join(WORK, "library.c")
    with open(source, "w") as f:
        f.write('#define LENSNET_IMPLEMENTATION\n#include "lensnet.h"\n')
    out = subprocess.run(RUNNER + CC + FLAGS + ["-fsyntax-only", source], capture_output=True, text=True)
    if out.returncode == 0:
        return []
    found = {int(m.group(1)) - 1 for m in re.finditer(r"lensnet\.h:(\d+):\d+: (?:fatal )?error", out.stderr)}
    if not found:
        sys.exit(out.stderr)
    return {n - HOOK.count("\n") if n >= hook else n for n in found}


def is_public(test):
    text = open(os.path.join(ROOT, "tests", test + ".c")).read()
    return "#define LENSNET_IMPLEMENTATION" in text and not re.search(
        r"lnp_|LNP_|LENSNET_STATIC|_MALLOC", text)


def build(tests):
    built = {}
    library = os.path.join(WORK, "library.o")
    if any(is_public(t) for t in tests):
        subprocess.run(RUNNER + CC + FLAGS + ["-c", os.path.join(WORK, "library.c"), "-o", library], check=True)
    for test in tests:
        program = os.path.join(WORK, test)
        extra = ["-DLENSNET_IMPLEMENTED", library] if is_public(test) else []
        command = RUNNER + CC + FLAGS + [os.path.join("tests", test + ".c")] + extra
        if subprocess.run(command + ["-o", program, "-lm", "-ldl"], cwd=ROOT).returncode == 0:
            built[test] = program
    return built


def run(program, mutant, limit):
    """None if all was well, else what was seen."""
    environment = dict(os.environ, LENSNET_MUTANT=str(mutant), LENSNET_TEST_QUICK="1",
                       OMP_WAIT_POLICY="passive")
    try:
        done = subprocess.run(RUNNER + [program], cwd=ROOT, env=environment, timeout=limit,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except subprocess.TimeoutExpired:
        return "it does not end"
    if done.returncode == 0:
        return None
    first = re.search(rb"FAILED ([^\n]*)", done.stdout)
    return first.group(1).decode(errors="replace")[:90] if first else "status %d" % done.returncode


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rooms", default="")
    parser.add_argument("--skip", default="", help="tests that are left out")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    os.makedirs(WORK, exist_ok=True)
    lines = open(os.path.join(ROOT, "lensnet.h")).read().split("\n")
    rooms = read_points(lines)
    if options.rooms:
        rooms = {r: rooms[r] for r in options.rooms.split(",")}
    banned = set()
    while True:
        mutants = draw(rooms, options.count, random.Random(options.seed), banned)
        wrong = wrong_lines(write_header(lines, mutants))
        if not wrong:
            break
        banned |= set(wrong)
    if options.list:
        for k, (room, n, kind, make) in enumerate(mutants, 1):
            print("%3d %-14s %-8s lensnet.h:%d  %s" % (k, room, kind, n + 1, make(k).strip()))
        return 0
    skipped = set(options.skip.split(","))
    wanted = {room: [t for t in TESTS.get(room, GENERAL) if t not in skipped and os.path.exists(
        os.path.join(ROOT, "tests", t + ".c"))] for room in rooms}
    built = build(sorted({t for m in mutants for t in wanted[m[0]]}))
    limits = {}
    for test, program in sorted(list(built.items())):
        started = time.time()
        seen = run(program, 0, 600)
        if seen:  # a busy machine, or a bug: it can judge nothing
            print("left out: %s fails without a mutant: %s" % (test, seen), flush=True)
            del built[test]
            continue
        limits[test] = 30 + 10 * (time.time() - started)
    survivors = []
    for k, (room, n, kind, make) in enumerate(mutants, 1):
        seen = None
        for test in wanted[room]:
            seen = run(built[test], k, limits[test]) if test in built else None
            if seen:
                break
        said = "%s (%s)" % (test, seen) if seen else "SURVIVES"
        print("%3d %-14s %-8s lensnet.h:%d  %s" % (k, room, kind, n + 1, said), flush=True)
        if not seen:
            survivors.append("lensnet.h:%d %s" % (n + 1, make(k).strip()))
    killed = len(mutants) - len(survivors)
    print("\n%d of %d mutants killed (%.1f %%)" % (killed, len(mutants), 100 * killed / len(mutants)))
    for line in survivors:
        print("  survives: " + line)
    return killed < 0.95 * len(mutants)


if __name__ == "__main__":
    sys.exit(main())
