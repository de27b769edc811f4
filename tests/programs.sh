#!/bin/sh
# programs.sh - the example programs on small simulated data: what they print and write, a run that is
# stopped and resumed against one that is not (equal bytes), and what they say about bad input.
#   sh tests/programs.sh       from the top folder; CC chooses the compiler; works in build/programs
# Closes with "N passed, N failed"; the exit status follows.

cd "$(dirname "$0")/.." || exit 1
CC=${CC:-cc}
WORK=build/programs
OMP_WAIT_POLICY=passive
export OMP_WAIT_POLICY
# shellcheck source=tests/programs_common.sh
. tests/programs_common.sh

sha256() { { sha256sum "$1" || shasum -a 256 "$1"; } 2>/dev/null | cut -c1-64; }

# refused WORDS PROGRAM ...: it must fail with exactly one line on stderr, "error: ..." with the words in
# it, and must not have made the folder `refused` it was told to write to
refused() {
    words=$1
    shift
    run "$@"
    status=$?
    [ $status -ne 0 ] && [ $status -lt 126 ] && [ "$(wc -l <err.txt)" -eq 1 ] &&
        grep -q '^error: ' err.txt && grep -qF -- "$words" err.txt && [ ! -e refused ]
    good "$* must be refused with '$words'"
}

# ---- building ----------------------------------------------------------------------------------------

rm -rf $WORK
mkdir -p $WORK
openmp=-fopenmp
echo 'int main(void) { return 0; }' >$WORK/probe.c
$CC $openmp $WORK/probe.c -o $WORK/probe 2>/dev/null || openmp=
build() { $CC -O1 $openmp -I. "$1" -o "$WORK/$(basename "$1" .c)" -lm >"$WORK/$(basename "$1").log" 2>&1; }
# PROGRAMS: the folder in which run.sh has built them already, as examples_train and so on
for source in examples/train.c examples/hello.c examples/own_network.c examples/finetune.c examples/own_operator.c \
    tools/simulate.c examples/evaluate.c examples/classify.c tools/check_data.c tools/convert.c tools/grow.c; do
    program=$(basename $source .c)
    if [ -z "$PROGRAMS" ]; then
        build $source
    else
        ln -s "$PROGRAMS/$(dirname $source)_$program" $WORK/$program
    fi
done
cd $WORK || exit 1
for program in train hello finetune own_network own_operator simulate evaluate classify check_data convert grow; do
    [ -x ./$program ]
    good "examples or tools: $program.c must compile"
done

# ---- data --------------------------------------------------------------------------------------------

run ./simulate data --train 16 --val 12
good "simulate"
for part in 2 3 1; do ./simulate parts --train 5 --val 4 --size 32 --part $part/3 >/dev/null 2>err.txt || break; done
./simulate undivided --train 5 --val 4 --size 32 >/dev/null && run ./simulate parts --part 1/3 --merge &&
    run diff -r undivided parts
good "simulate in three parts, merged, is the undivided set to the byte"
run ./simulate fewer --train 5 --size 32 --part 1/2 && run ./simulate fewer --part 1/2 --merge
[ $? -eq 1 ] && grep -q 'truth-2-of-2.csv.*is this part complete' err.txt && [ ! -e fewer/truth.csv ]
good "a merge without all parts is refused"
for other in "--train 5 --seed 1" "--train 4" "--train 5 --preset model1" "--train 5 --float32"; do
    # shellcheck disable=SC2086
    rm -f fewer/truth-2* && ./simulate fewer $other --size 32 --part 2/2 >/dev/null && run ./simulate fewer --part 1/2 --merge
    [ $? -eq 1 ] && grep -q 'truth-2-of-2.csv has another seed' err.txt && [ ! -e fewer/truth.csv ]
    good "a merge with a part of another set is refused ($other)"
done
rm -f fewer/truth-2* && ./simulate fewer --train 5 --size 32 --part 2/2 >/dev/null &&
    sed 3d fewer/truth-2-of-2.csv >short.txt && cp short.txt fewer/truth-2-of-2.csv &&
    run ./simulate fewer --part 1/2 --merge
[ $? -eq 1 ] && grep -q 'it does not end with the mark of this part' err.txt && [ ! -e fewer/truth.csv ]
good "a merge with a part that lacks a line is refused"
# A copy of the data in which one thing is wrong: spoil COMMAND ...
spoil() {
    rm -rf bad
    cp -r data bad
    "$@"
}

# ---- training, stopped and resumed -------------------------------------------------------------------

options="--weights none --size 32 --epochs 3 --batch 10 --schedule plateau --patience 0"
options="$options --drop-path 0.3 --smoothing 0.1 --augment reference --average 0.9"
# shellcheck disable=SC2086
run ./train data $options --out whole --folder
good "train"
for file in best.safetensors last.safetensors history.csv history.svg report.txt roc.svg confusion.svg \
    reliability.svg report.html predictions.csv huggingface/config.json huggingface/model.safetensors; do
    [ -s whole/$file ]
    good "train must write $file"
done
[ "$(wc -l <whole/history.csv)" -eq 4 ]
good "a line per epoch in history.csv"
[ -z "$(find whole -name '*tmp*' -o -name '*~')" ]
good "no temporary files stay"

# Stopped within the first epoch, at its end, within the second; other threads each time.
# shellcheck disable=SC2086
run ./train data $options --out parts --stop-after 2 --threads 1 && grep -q -- '--resume --out parts' out.txt
good "train --stop-after"
refused "the run was begun with --batch 10, not 2" ./train data --weights none --out parts --batch 2 --resume
refused "there is a run already" ./train data --weights none --out parts
refused "recipe scratch starts from random weights" ./train data --recipe scratch --weights whole/best.safetensors --out refused
run ./train --resume --out parts --stop-after 3 --threads 2
good "resume within an epoch"
run ./train --resume --out parts --stop-after 2 --threads 3 --cache 0
good "resume at the end of an epoch"
run ./train data --resume --out parts
good "resume to the end"
for file in best.safetensors last.safetensors history.csv history.svg predictions.csv report.txt; do
    cmp whole/$file parts/$file >/dev/null 2>&1
    good "$file of the stopped and resumed run must be that of the other to the byte"
done
run ./train --resume --out parts && cmp whole/last.safetensors parts/last.safetensors
good "resuming a finished run changes nothing"

# ---- a wide network from a narrow one -----------------------------------------------------------------

atto=../../weights/lensnet-atto.safetensors images=../../examples/images
classes() { ./classify "$1" $images --csv 2>err.txt | cut -d, -f1,5; }
run ./grow $atto nano nano.safetensors && classes $atto >atto.txt && classes nano.safetensors >nano.txt &&
    [ "$(wc -l <atto.txt)" -eq 10 ] && cmp atto.txt nano.txt
good "a grown network says what the narrow one says"
refused "atto is not larger in every stage" ./grow nano.safetensors atto refused
rm -f nano.safetensors

# ---- every option of a long run, stopped and resumed --------------------------------------------------

# same_when_stopped NAME OPTIONS ...: a run stopped twice ends with the bytes of one that was not
same_when_stopped() {
    name=$1
    shift
    run ./train "$@" --threads 2 --out "$name-whole" &&
        run ./train "$@" --threads 1 --stop-after 2 --out "$name" &&
        run ./train --resume --threads 2 --stop-after 3 --out "$name" &&
        run ./train --resume --threads 1 --out "$name" &&
        cmp "$name-whole/last.safetensors" "$name/last.safetensors" &&
        cmp "$name-whole/best.safetensors" "$name/best.safetensors"
    good "the same bytes when stopped: $*"
}

small="--weights none --recipe scratch --variant atto --held-out 12 --epochs 2 --warmup 0"
# shellcheck disable=SC2086
same_when_stopped dense --simulate 24 $small --batch 8 --crop 64 --size 64 --dense 2 --heavy 8 --ease 1 \
    --turned 0.5 --schedule hold --cooldown 1 --average 0.9 --early-size 32 --early-epochs 1 \
    --precision bf16
# shellcheck disable=SC2086
refused "a teacher must have the classes" ./train data $small --size 32 --distill dense/best.safetensors \
    --out refused
# shellcheck disable=SC2086
run ./train --simulate 24 $small --size 32 --batch 8 --out teacher
# shellcheck disable=SC2086
same_when_stopped taught data $small --batch 8 --size 32 --simulate 12 --mix yes --mixup 0.8 --cutmix 1 \
    --class-weights 1,2,1.5 --layer-decay 0.9 --freeze 1 --degrees 10 --zoom 0.1 --shear 5 \
    --distill teacher/best.safetensors --early-stop 1
# shellcheck disable=SC2086
run ./train --simulate 24 $small --size 32 --batch 8 --schedule constant --epochs 3 --out longer-whole &&
    run ./train --simulate 24 $small --size 32 --batch 8 --schedule constant --epochs 1 --out longer &&
    run ./train --resume --epochs 3 --out longer &&
    cmp longer-whole/best.safetensors longer/best.safetensors
good "a run that is made longer goes on as if it had been that long"

# ---- several seeds, stopped and resumed ---------------------------------------------------------------

seeds="data --weights none --size 32 --epochs 1 --batch 16 --schedule constant --limit 10"
# shellcheck disable=SC2086
run ./train $seeds --seeds 3 --seed 4 --out seeds && cp out.txt said.txt && run ./train $seeds --seed 5 --out seed &&
    cmp seed/best.safetensors seeds/seed-5/best.safetensors && run cat seeds/seeds.csv &&
    awk -F, '/^[456],/ { n++; for (i = 2; i < 5; i++) { s[i] += $i; q[i] += $i * $i } }
        /^mean/ { for (i = 2; i < 5; i++) bad += ($i - s[i] / 3) ^ 2 > 1e-20 }
        /^spread/ { for (i = 2; i < 5; i++) bad += ($i ^ 2 - (q[i] - s[i] ^ 2 / 3) / 2) ^ 2 > 1e-20; m++ }
        END { exit n != 3 || m != 1 || bad }' seeds/seeds.csv && tail -9 said.txt | head -7 | cmp - seeds/seeds.txt
good "train --seeds: each seed as it would be alone, their mean and spread"
# shellcheck disable=SC2086
run ./train $seeds --seeds 3 --seed 4 --stop-after 1 --out seeds-parts && grep -q 'resume --out seeds-parts$' out.txt &&
    run ./train --resume --stop-after 2 --out seeds-parts && grep -q '^5,,,$' seeds-parts/seeds.csv &&
    run ./train --resume --out seeds-parts && run diff seeds/seeds.csv seeds-parts/seeds.csv &&
    cmp seeds/seed-6/last.safetensors seeds-parts/seed-6/last.safetensors
good "train --seeds, stopped in a seed and between two, goes on to the same figures"
refused "seeds/seed-4: there is a run already" ./train data --weights none --seeds 2 --seed 4 --out seeds
run ./evaluate seeds/seed-*/best.safetensors data --split val && sed 1d out.txt | sed 's/  */ /g; 1d' | cut -d' ' -f2- |
    head -3 >some.txt && [ "$(wc -l <some.txt)" -eq 3 ] && grep -q '^spread (one sigma) ' out.txt
good "evaluate of three files: mean and spread"

# ---- the loop in a screenful --------------------------------------------------------------------------

run ./finetune teacher/best.safetensors data tuned.safetensors && grep -q '^epoch 5 of 5: loss' out.txt &&
    run ./classify tuned.safetensors data/val/no
good "finetune writes weights that classify"
refused "nowhere" ./finetune teacher/best.safetensors nowhere refused

# Ctrl-C: the signal, the state, the way on.
./train data --weights none --size 32 --epochs 500 --batch 8 --out signal >out.txt 2>err.txt &
pid=$!
count=0
while [ ! -s signal/last.safetensors ] && [ $count -lt 120 ]; do
    sleep 0.5
    count=$((count + 1))
done
kill -INT $pid
wait $pid
[ $? -eq 130 ] && grep -q '^stopped in epoch' out.txt && [ -s signal/last.safetensors ]
good "Ctrl-C must save and end with status 130"
run ./train --resume --out signal --stop-after 1 && grep -q '^stopped in epoch' out.txt
good "resume after Ctrl-C"

# A folder has one run at a time; a lost connection saves too; after kill -9 the folder is free, and what
# was being written is cleared away.
begin_endless() {
    ./train data --weights none --size 32 --epochs 500 --batch 8 --out "$1" >endless.txt 2>endless.err &
    pid=$!
    count=0
    while [ ! -s "$1/last.safetensors" ] && [ $count -lt 600 ]; do
        sleep 0.1
        count=$((count + 1))
    done
}
begin_endless held
refused "a run is under way there (process $pid on" ./train --resume --out held
lost=HUP # who runs this under nohup ignores it, and so does what he starts
(sh -c 'kill -HUP $$') 2>/dev/null && lost=TERM
kill -$lost $pid
wait $pid
[ $? -eq 130 ] && grep -q '^stopped in epoch' endless.txt && [ -s held/last.safetensors ] &&
    [ ! -e held/lock ] && grep -q '^interrupted: ' endless.err
good "a lost connection must save and end with status 130"
rm -r held
begin_endless held
kill -9 $pid
wait $pid 2>/dev/null
: >held/best.safetensors.tmp-0
: >held/last.safetensors.tmp-7
ln -s nothing held/mine.tmp-1
run ./train --resume --out held --stop-after 1 && [ ! -e held/best.safetensors.tmp-0 ] &&
    [ ! -e held/last.safetensors.tmp-7 ] && [ -L held/mine.tmp-1 ] && [ ! -e held/lock ]
good "after kill -9 the lock is free, and temporary files are cleared away"
# before there is anything to lose a signal ends the program at once
./train --simulate 99999999 --weights none --out refused >out.txt 2>err.txt &
pid=$!
sleep 0.3
kill -TERM $pid
wait $pid
[ $? -gt 128 ] && [ ! -e refused ]
good "a signal before the first step ends the program at once"

# what cannot fit is said before it is taken
refused "this needs 4" ./train --simulate 24 --weights none --variant huge --size 4096 --batch 65536 --out refused

# A standard output that cannot be written is an error, and what was done is saved.
if [ -w /dev/full ]; then
    ./train data --weights none --size 32 --epochs 2 --batch 8 --out full >/dev/full 2>err.txt
    [ $? -eq 1 ] && grep -q '^error: the standard output cannot be written: No space left' err.txt
    good "a full disk under the standard output is an error"
    run ./train --resume --out full && [ -s full/best.safetensors ]
    good "and the run can be resumed"
fi
mkfifo pipe
(head -n 1 <pipe >/dev/null) &
./train data --weights none --size 32 --epochs 2 --batch 8 --out piped >pipe 2>err.txt
[ $? -eq 1 ] && grep -q '^error: the standard output cannot be written: Broken pipe' err.txt
good "a closed pipe is an error"

# Two generations of the state: damage is noticed, and the older one used with a word.
cp -r parts damaged
[ -s damaged/last.previous.safetensors ] && ! cmp -s damaged/last.safetensors damaged/last.previous.safetensors
good "the state before the last is kept"
rm damaged/last.previous.safetensors
head -c 20000 parts/last.safetensors >damaged/last.safetensors
refused "damaged/last.safetensors" ./train --resume --out damaged
cp parts/last.previous.safetensors damaged/
run ./train --resume --out damaged &&
    grep -q '^warning: .*last.safetensors.*Going on from the state before it, damaged/last.previous' err.txt
good "a damaged state is named, and the one before it used"
for file in best.safetensors last.safetensors history.csv predictions.csv; do
    cmp whole/$file damaged/$file >/dev/null 2>&1
    good "$file of the run that lost its last state must be that of the other to the byte"
done
# killed between keeping the old state and saving the new one: both names are one file's
cp -r parts linked
ln -f linked/last.safetensors linked/last.previous.safetensors
run ./train --resume --out linked && cmp -s whole/last.safetensors linked/last.safetensors &&
    [ -z "$(find linked -name '*.tmp-*')" ]
good "a state under both names is gone on from, and nothing is left over"
# one bit in the middle of the numbers
size=$(wc -c <parts/last.safetensors)
cp parts/last.safetensors damaged/last.safetensors
byte=$(dd if=parts/last.safetensors bs=1 skip=$((size / 2)) count=1 2>/dev/null | od -An -tu1 | tr -d ' ')
printf "\\$(printf '%03o' $((byte ^ 4)))" |
    dd of=damaged/last.safetensors bs=1 seek=$((size / 2)) conv=notrunc 2>/dev/null
run ./train --resume --out damaged &&
    grep -q '^warning: .*checksum.* Going on from the state before it' err.txt &&
    cmp whole/last.safetensors damaged/last.safetensors
good "a flipped bit in a state is noticed"
rm damaged/last.safetensors
run ./train --resume --out damaged && cmp whole/last.safetensors damaged/last.safetensors
good "the older state alone is enough"

# Simulated images need no data at all.
run ./train --weights none --simulate 24 --held-out 12 --size 32 --epochs 1 --batch 8 --out simulated
good "train --simulate"
run grep -q 'what the substructure changes' simulated/report.html &&
    grep -q '<title>Training history' simulated/report.html
good "its report has the simulator's truth beside where the network looks, and the history"
run ./train data --simulate 24 --weights none --size 32 --epochs 1 --batch 8 --out mixed
good "train DATA --simulate"

# ---- fine-tuning -------------------------------------------------------------------------------------

run ./train data --weights whole/best.safetensors --epochs 1 --out tuned --type f16 &&
    grep -q 'head included' out.txt && grep -q 'recipe *finetune' out.txt && grep -q 'input 32 x 32' out.txt &&
    grep -q "^starting weights: whole/best.safetensors, .*SHA-256 $(sha256 whole/best.safetensors)" tuned/roc.svg &&
    grep -q "^options: .* --classes '' --nan refuse " tuned/provenance.txt
good "fine-tuning keeps the head where the classes are the same"
rm -rf other && cp -r data other && for split in train val; do mv other/$split/vort other/$split/axion; done
run ./train other --weights whole/best.safetensors --epochs 1 --out renamed
good "fine-tuning on other classes"
for split in train val; do rm -r other/$split/axion; done
run ./train other --weights whole/best.safetensors --epochs 1 --out fewer && grep -q 'fresh head' out.txt
good "fine-tuning on fewer classes takes a fresh head"

# The published recipe: everything but size and length as it stands in the literature.
run ./train data --recipe reference --weights whole/best.safetensors --variant atto --size 32 --epochs 1 \
    --out reference && grep -q 'epochs of 1 steps of 100 images, AdamW, rate 5e-05 (plateau, warm-up 0)' out.txt &&
    grep -q 'decay 0.01 (all), clip 0, average 0, drop path 0, smoothing 0' out.txt &&
    grep -q 'augmentation reference' out.txt
good "train --recipe reference"

# ---- using -------------------------------------------------------------------------------------------

run ./hello whole/best.safetensors data/val/no/000000.npy && [ "$(wc -l <out.txt)" -eq 1 ]
good "hello"
said=$(cut -d' ' -f1 out.txt)
run ./classify whole/best.safetensors data/val
good "classify"
grep -q "^data/val/no/000000.npy  *$said " out.txt && [ "$(grep -c '%$' out.txt)" -eq 36 ] &&
    grep -q '^36 images in ' out.txt
good "classify agrees with hello and shows every image"
cp out.txt table.txt
run ./classify --csv whole/best.safetensors data/val/no data/val/vort/000003.npy &&
    [ "$(wc -l <out.txt)" -eq 14 ] && head -1 out.txt | grep -qx 'file,id,ra,dec,class,probability,no,sphere,vort'
good "classify --csv"
run ./classify --coverage 0.01 $atto $images && [ "$(grep -c '%  *$' out.txt)" -gt 5 ] &&
    run ./classify --csv --coverage 0.99 $atto $images && head -1 out.txt | grep -q ',foreign,set$' &&
    [ "$(grep -c '|' out.txt)" -gt 1 ] && ! sed 1d out.txt | grep -q ',$'
good "classify --coverage: sets are small where little is asked for, and large where much"
refused "takes a number from 0.01 to 0.99" ./classify --coverage 1 $atto mixed.npy
run ./classify --views 8 whole/best.safetensors data/val/no
good "classify --views 8"
run ./classify --json whole/best.safetensors data/val
good "classify --json"
if command -v python3 >/dev/null 2>&1; then
    python3 -c "import json; a = json.load(open('out.txt')); assert len(a) == 36, len(a)
assert all(abs(sum(x['probabilities'].values()) - 1) < 1e-5 for x in a)"
    good "classify --json is JSON, and probabilities add up to 1"
    odd=$(printf 'odd\377name&.safetensors') && cp whole/best.safetensors "$odd" &&
        run ./evaluate "$odd" data --split val --out odd && grep -q 'odd.xffname&amp;.safetensors' odd/roc.svg &&
        python3 -c "import glob, xml.dom.minidom as x
for f in glob.glob('whole/*.svg') + glob.glob('odd/*.svg'): x.parse(f)"
    good "figures are XML, also of weights whose name is not UTF-8"
fi
cp data/val/no/000000.npy mixed.npy
echo 'no image' >foreign.npy
run ./classify whole/best.safetensors foreign.npy mixed.npy missing.npy
[ $? -eq 1 ] && grep -q '^mixed.npy' out.txt && [ "$(grep -c '^error: ' err.txt)" -eq 3 ] &&
    grep -q 'foreign.npy: ' err.txt && grep -q 'missing.npy: ' err.txt
good "classify reports wrong files, goes on, and ends with status 1"
run ./evaluate whole/best.safetensors data --out judged && grep -q 'weighted avg' out.txt &&
    [ -s judged/roc.svg ] && cmp judged/report.txt whole/report.txt
good "evaluate gives train's report of the test split"
grep -q '^date: ' judged/provenance.txt && grep -q '^images: data, split test: .*pixels [0-9a-f]' judged/provenance.txt &&
    grep -q "^weights: whole/best.safetensors, .*SHA-256 $(sha256 whole/best.safetensors)" judged/roc.svg && ! grep -q '^date: ' judged/roc.svg &&
    grep -q '<th scope="row">processor</th>' judged/report.html
good "evaluate says where its report and figures come from, in figures without the day"
run ./evaluate whole/best.safetensors data --split val && grep -q 'macro ' out.txt
good "evaluate --split val"
spoil rm -r bad/val/no
run ./evaluate whole/best.safetensors bad --out absent && grep -q 'macro over present' out.txt &&
    grep -q '^  no  *undefined$' out.txt && ! cat out.txt absent/report.html absent/*.svg | sed 's,--nan,,' | grep -qi '[^a-z]nan[^a-z]'
good "evaluate where a class is absent"
run ./own_network data && [ "$(grep -c '^epoch' out.txt)" -eq 8 ]
good "own_network"
run ./own_operator && grep -q 'they agree' out.txt
good "own_operator: gradients against differences"

# ---- bad input ---------------------------------------------------------------------------------------

image=bad/train/sphere/000003.npy
train="./train bad --weights none --size 32 --epochs 1 --out refused"
spoil sh -c "head -c 5000 data/train/sphere/000003.npy >$image"
refused "$image: the file is cut short" $train
spoil sh -c "printf '\\211PNG and so on' >$image"
refused "$image: it is a PNG picture" $train
spoil sh -c "printf '\\223NUMPY\\001\\000v\\000%-117s\\n' \"{'descr': '|O', 'fortran_order': False, 'shape': (), }\" >$image"
refused "$image: its pickle is damaged: cut off at byte 0" $train
spoil sh -c "printf '\\223NUMPY\\001\\000v\\000%-117s\\n\\000\\000\\300\\177' \"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1), }\" >$image"
refused "$image: the pixel in row 0, column 0 is NaN" $train
spoil sh -c ": >$image"
refused "$image: the file is empty" $train
spoil sh -c "rm bad/train/vort/*.npy"
refused "bad/train/vort: the folder of class 'vort' holds no images" $train
spoil sh -c "mv bad/train/vort/000000.npy . ; rm bad/train/vort/*; mv 000000.npy bad/train/vort"
refused "bad/train/vort: holds 1 image, but 2" $train
spoil rm -r bad/val/no
refused "bad/val: the class 'no' is missing" $train
spoil rm -r bad/val
refused "there is no folder 'val'" $train
spoil rm -r bad/train/no bad/train/vort
refused "has 1 class folder" $train
refused "nowhere: there is no such folder" ./train nowhere --weights none --out refused
: >zero.safetensors
head -c 3000 whole/best.safetensors >short.safetensors
for weights in zero short; do
    refused $weights.safetensors ./train data --weights $weights.safetensors --out refused
    refused $weights.safetensors ./classify $weights.safetensors data/val
    refused $weights.safetensors ./evaluate $weights.safetensors data --out refused
    refused $weights.safetensors ./hello $weights.safetensors mixed.npy
done
refused "these are weights of ConvNeXt V2 atto, not of pico" \
    ./train data --weights whole/best.safetensors --variant pico --out refused
refused "zero.safetensors/run" ./train data --weights none --size 32 --epochs 1 --out zero.safetensors/run
run ./evaluate whole/best.safetensors data --out zero.safetensors/run # a note on the split comes before it
[ $? -eq 1 ] && grep '^error: ' err.txt | grep -qF zero.safetensors/run
good "evaluate must say that it cannot write into a file"
refused "zero.safetensors: it is no training state" \
    sh -c 'mkdir -p foreign && cp whole/best.safetensors foreign/last.safetensors &&
           ./train --resume --out foreign 2>&1 | sed "s/foreign.last/zero/" >&2; exit 1'
spoil mv bad/val/vort bad/val/axion
refused "'axion' is not one of the classes" ./evaluate whole/best.safetensors bad --out refused
refused "there is nothing to train on" ./train --out refused
refused "there is no option --epoch; is --epochs meant?" ./train data --epoch 3 --out refused
refused "--epochs takes a whole number" ./train data --weights none --epochs many --out refused
refused "--schedule is one of constant, cosine, hold, plateau" \
    ./train data --weights none --schedule step --out refused
refused "recipe reference starts from ImageNet weights" ./train data --recipe reference --out refused
refused "--views" ./classify --views 9 whole/best.safetensors mixed.npy
# The images changed since the run was stopped.
spoil sh -c "./train bad $options --out moved --stop-after 1 >/dev/null && rm bad/train/no/000005.npy" 2>/dev/null
refused "not those that the run was begun with" ./train --resume --out moved

# shellcheck source=tests/programs_backbones.sh
. ../../tests/programs_backbones.sh
# shellcheck source=tests/programs_data.sh
. ../../tests/programs_data.sh

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
