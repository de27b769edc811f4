#!/usr/bin/env python3
"""A model of the time of a training step over MPI, from the parts that tools/cluster_cost.c has timed.

    python3 tools/cluster_cost.py costs.csv                        the model beside what was measured
    python3 tools/cluster_cost.py costs.csv --table --speed 16     a table for clusters

A step of P processes, S shards and N weights (fp32, G = 4 N bytes) is

    compute    ceil(S / P) shards, each pushed onto this process's sum
    exchange   (P - 1) / P of G out and as much in, for each node of the tree that a process has (one where S / P
               is a power of two), then the sums of all others: 2 (P - 1) / P G bytes, 2 (P - 1) messages
    adding     (P - 1) / P N numbers
    words      four small messages of log2 P hops: is all well, and the losses
    optimiser  every process the whole of it

Of the exchange, as much is hidden as goes on while the last pass of the last shard goes backward: two thirds of the
time of the images that a pass computes at once. That is so between machines. Processes of one machine copy what they
send themselves, which hides nothing: they are compared with steps that send after the last pass. Processes that
share a core take turns, and so do their copies. Where several lines of costs.csv have one kind of run, the median
of each column counts. No package is needed."""
import argparse
import csv
import math
import statistics

PARTS = ("at_once", "step", "after", "shard", "image", "add", "adamw", "latency", "byte")


def read(path):
    """{(variant, size, batch, shards, ranks): {part: seconds, "weights": N}}"""
    runs = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            key = (row["variant"],) + tuple(int(row[k]) for k in ("size", "batch", "shards", "ranks"))
            runs.setdefault(key, []).append(row)
    found = {}
    for key, rows in runs.items():
        found[key] = {k: statistics.median(float(r[k]) for r in rows) for k in PARTS}
        found[key]["weights"] = int(rows[0]["weights"])
    return found


def nodes(shards, ranks):
    """Nodes of the tree that the process with the most of them has: see examples/shards.h."""
    most = 0
    for rank in range(ranks):
        sums = []
        for shard in range(shards * rank // ranks, shards * (rank + 1) // ranks):
            sums.append((shard, 1))
            while len(sums) > 1 and sums[-2][1] == sums[-1][1] and sums[-2][0] % (2 * sums[-1][1]) == 0:
                last = sums.pop()
                sums[-1] = (sums[-1][0], 2 * last[1])
        most = max(most, len(sums))
    return most


BLOCKS, LEAST = 16, 32768


def blocks(weights, ranks):
    """Into how many a gradient is cut: see cluster_blocks() in examples/cluster.h."""
    return max(1, min(BLOCKS, weights // (LEAST * ranks)))


def step(ranks, shards, weights, shard, add, adamw, latency, byte, sharing=1.0, window=0.0):
    """Seconds of a step, and those of them that are not computing. `sharing`: processes on a core; `window`: seconds
    in which can be sent meanwhile."""
    own = nodes(shards, ranks)
    compute = math.ceil(shards / ranks) * shard + adamw
    adding = math.ceil(shards / ranks) * add + own * (ranks - 1) / ranks * add
    sent = (own + 1) * (ranks - 1) / ranks * 4 * weights * byte
    cut = blocks(weights, ranks)
    messages = cut * (own + 1) * (ranks - 1) * latency
    hidden = min(window, (cut - 1) / cut * (sent + messages))
    words = messages + 4 * math.log2(ranks) * latency - hidden
    return sharing * (compute + adding + sent) + words, sharing * adding + sharing * sent + words


def compare(runs, cores, between):
    """Processes of one machine, or `between` machines."""
    print("variant  size  batch  shards  ranks   model, s  measured, s   difference   all but computing")
    for (variant, size, batch, shards, ranks), run in sorted(runs.items()):
        base = runs.get((variant, size, batch, shards, min(ranks, cores)))
        if not base:
            continue
        for column, share in (("after", 0.0), ("step", 1.0)) if between else (("after", 0.0),):
            window = share * 2 / 3 * base["shard"] * min(1.0, base["at_once"] * shards / batch)
            seconds, rest = step(ranks, shards, base["weights"], base["shard"], base["add"], base["adamw"],
                                 base["latency"], base["byte"], max(1.0, ranks / cores), window)
            print(f"{variant:7} {size:5} {batch:6} {shards:7} {ranks:6} {seconds:10.4f} {run[column]:12.4f} "
                  f"{100 * (seconds / run[column] - 1):+11.1f} % {100 * rest / seconds:12.1f} %"
                  f"{'   sent meanwhile' if share else ''}")


def cluster(run, images, ranks, speed, byte, latency, at_once):
    """Seconds of a step of `images` in all on `ranks` nodes, a shard each, of which `at_once` in a pass; and those of
    sending. A node is `speed` times as fast as one process that was measured."""
    more = run["batch"] / run["shards"] - 1
    each = (run["shard"] - run["image"]) / more if more else run["image"]
    shard = run["image"] - each + each * images / ranks
    parts = (ranks, ranks, run["weights"], shard / speed, run["add"] / speed, run["adamw"] / speed)
    window = 2 / 3 * min(at_once, images / ranks) * each / speed
    seconds = step(*parts, latency, byte, window=window)[0]
    return seconds, seconds - step(*parts, 0, 0)[0]


def table(runs, cores, speed, per_node, fixed):
    nodes_of = [2 ** k for k in range(1, 9)]
    print(f"Times faster than one node. A node is {speed:g} times the measured machine. A step has {fixed} images "
          f"in all, or {per_node} a node.\n")
    print("| network | images | Gbit/s | " + " | ".join(map(str, nodes_of)) +
          " | half is lost from | sending | all in a pass |")
    print("|---|---|" + "---:|" * 12)
    for (variant, size, batch, shards, ranks), run in sorted(runs.items()):
        if ranks != cores:
            continue
        run = dict(run, batch=batch, shards=shards)
        for name, images in ((f"{fixed}", lambda p: fixed), (f"{per_node} a node", lambda p: p * per_node)):
            one = cluster(run, images(1), 1, speed * cores, 0, 0, 0)[0] / images(1)
            for gbit, latency in ((10, 20e-6), (100, 2e-6)):
                byte = 8 / (gbit * 1e9)
                steps = [cluster(run, images(p), p, speed * cores, byte, latency, run["at_once"]) for p in nodes_of]
                whole = cluster(run, images(16), 16, speed * cores, byte, latency, images(16))
                gains = [one * images(p) / seconds for p, (seconds, _) in zip(nodes_of, steps)]
                lost = [str(p) for p, gain in zip(nodes_of, gains) if gain < p / 2]
                print(f"| {variant}, {size} px | {name} | {gbit} | " + " | ".join(f"{g:.1f}" for g in gains) +
                      f" | {(lost + ['-'])[0]} | {100 * steps[3][1] / steps[3][0]:.1f} % | "
                      f"{100 * whole[1] / whole[0]:.1f} % |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("costs", help="lines that cluster_cost has printed, the first with --head")
    parser.add_argument("--cores", type=int, default=2, help="of the machine that was measured, one process each")
    parser.add_argument("--between", action="store_true", help="the processes were on machines of their own")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--speed", type=float, default=1, help="a node's, in such machines")
    parser.add_argument("--per-node", type=int, default=32)
    parser.add_argument("--fixed", type=int, default=256)
    given = parser.parse_args()
    runs = read(given.costs)
    if given.table:
        table(runs, given.cores, given.speed, given.per_node, given.fixed)
    else:
        compare(runs, given.cores, given.between)


if __name__ == "__main__":
    main()
