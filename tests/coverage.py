#!/usr/bin/env python3
"""coverage.py - lines and branches that tests reached, from gcov's notes, merged over programs.

    python3 tests/coverage.py FOLDER FILE ...      FOLDER holds .gcda files; FILES as they were included

Prints for each file, and for each room of lensnet.h, how many lines and branches ran, and the lines that
did not with --missed. A branch that gcov counts for another build (a macro, an instruction set) is
merged by its place in the line.
"""
import collections
import gzip
import json
import os
import re
import subprocess
import sys
import tempfile


def notes(folder):
    """gcov's JSON for every .gcda in the folder."""
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".gcda"):
            continue
        with tempfile.TemporaryDirectory() as work:
            path = os.path.abspath(os.path.join(folder, name))
            subprocess.run(["gcov", "--json-format", "--branch-probabilities", path], cwd=work,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for made in os.listdir(work):
                with gzip.open(os.path.join(work, made)) as f:
                    yield json.load(f)


def rooms_of(path):
    """The room of each line of lensnet.h (0: before the first)."""
    room, rooms = "(public)", [""]
    private = False
    for line in open(path, errors="replace"):
        private = private or "#define LENSNET_IMPLEMENTED" in line
        mark = re.match(r"^ \* >>([\w-]+)", line)
        if private and mark:
            room = mark.group(1)
        rooms.append(room)
    return rooms


def share(hit, total):
    return "%6d of %6d  %5.1f %%" % (hit, total, 100.0 * hit / total) if total else "none"


def main():
    arguments = [a for a in sys.argv[1:] if a != "--missed"]
    folder, wanted = arguments[0], arguments[1:]
    lines = collections.defaultdict(lambda: collections.defaultdict(int))
    branches = collections.defaultdict(dict)
    for data in notes(folder):
        for file in data["files"]:
            name = os.path.normpath(file["file"])
            match = [w for w in wanted if name == w or name.endswith("/" + w)]
            if not match:
                continue
            for line in file["lines"]:
                n = line["line_number"]
                lines[match[0]][n] += line["count"]
                # the same line compiled twice (C++, a template by macro) has other branches
                counts = [b["count"] for b in line["branches"] if not b.get("throw")]
                old = branches[match[0]].setdefault((n, len(counts)), [0] * len(counts))
                for i, count in enumerate(counts):
                    old[i] += count
    for name in wanted:
        reached = lines[name]
        groups = collections.defaultdict(lambda: [0, 0, 0, 0])
        rooms = rooms_of(name) if name.endswith("lensnet.h") else None
        for n, count in reached.items():
            for group in {name, "  " + rooms[n] if rooms else name}:
                groups[group][0] += count > 0
                groups[group][1] += 1
        for (n, _), counts in branches[name].items():
            if not reached[n]:
                continue  # a line that never ran is counted there
            for group in {name, "  " + rooms[n] if rooms else name}:
                groups[group][2] += sum(c > 0 for c in counts)
                groups[group][3] += len(counts)
        for group in sorted(groups, key=lambda g: (g != name, g)):
            a, b, c, d = groups[group]
            print("%-24s lines %s   branches %s" % (group, share(a, b), share(c, d)))
        if "--missed" in sys.argv:
            print("  missed: " + " ".join(str(n) for n in sorted(reached) if not reached[n]))


if __name__ == "__main__":
    main()
