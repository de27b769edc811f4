#!/bin/sh
# make_images.sh - makes examples/images: nine lenses in an order that gives no class away, and
# truth.csv, which does.
#
#   cc -O2 -fopenmp tools/simulate.c -o simulate -lm && sh tools/make_images.sh
set -e
program=${1:-./simulate}
target=$(dirname "$0")/../examples/images
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$program" "$work/set" --test 3 --float32 --seed 2026
mkdir -p "$target"
head -1 "$work/set/truth.csv" | sed 's/^file,split,class,number,/file,class,/' >"$target/truth.csv"
number=0
for name in sphere/000000 no/000000 vort/000000 vort/000001 no/000001 sphere/000001 no/000002 \
    vort/000002 sphere/000002; do
    number=$((number + 1))
    cp "$work/set/test/$name.npy" "$target/lens-0$number.npy"
    sed -n "s|^test/$name\.npy,test,\([a-z]*\),[0-9]*,|lens-0$number.npy,\1,|p" "$work/set/truth.csv" \
        >>"$target/truth.csv"
done
