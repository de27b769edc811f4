# programs_data.sh - part of programs.sh (read by it, in its folder, after its own tests): files and layouts
# as people have them, catalogues in and out, what programs say to a wrong command line or a full disk.

fixtures=../../tests/fixtures/pictures

# complained WORDS PROGRAM ...: it must end with status 1 and say the words on stderr
complained() {
    words=$1
    shift
    run "$@"
    [ $? -eq 1 ] && grep '^error: ' err.txt | grep -qF -- "$words"
    good "$* must complain with '$words'"
}

# ---- command lines -----------------------------------------------------------------------------------

for program in train hello finetune own_network own_operator simulate evaluate classify check_data convert; do
    run ./$program --help && [ -s out.txt ] && [ ! -s err.txt ]
    good "$program --help: on stdout, status 0"
    run ./$program --version && grep -q '^lensnet [0-9]' out.txt
    good "$program --version"
    run ./$program --no-such-option
    [ $? -eq 2 ] && [ ! -s out.txt ] && grep -q 'there is no option --no-such-option' err.txt
    good "$program --no-such-option: status 2"
done
for program in train hello finetune own_network simulate evaluate classify check_data convert; do
    run ./$program
    [ $? -eq 2 ] && [ -s err.txt ]
    good "$program without a word: status 2"
done
refused "is --epochs meant?" ./train data --epcohs 3 --out refused
refused "is --batch meant?" ./classify --bat=3 whole/best.safetensors data/val
refused "is --train meant?" ./simulate refused --trian 2
refused "takes no value" ./simulate refused --float32=yes --train 2
run ./simulate equals --train=2,1,1 --preset=model1 --seed=3 --size=40 && run ./simulate spaces --train 2,1,1 \
    --preset model1 --seed 3 --size 40 && diff -r equals spaces
good "simulate --option=value"
refused "takes no value" ./classify --csv=yes whole/best.safetensors data/val
refused "the weights come first: classify whole/best.safetensors data/val" \
    ./classify data/val whole/best.safetensors
refused "the weights come first: evaluate whole/best.safetensors data" \
    ./evaluate data whole/best.safetensors
refused "weights are an option: train data --weights whole/best.safetensors" \
    ./train whole/best.safetensors data --out refused
refused "there is no nowhere/last.safetensors, so no run to go on with" ./train --resume --out nowhere
refused "a/file/x: the folder cannot be made: Not a directory" \
    sh -c 'mkdir -p a && : >a/file && ./train data --weights none --out a/file/x'
refused "are weights and image exchanged?" ./hello mixed.npy whole/best.safetensors
refused "whole/best.safetensors: it is a file, and a folder" ./finetune data whole/best.safetensors refused
refused "huggingface.co/facebook/convnextv2-tiny-1k-224/resolve/main/model.safetensors" \
    ./classify facebook/convnextv2-tiny-1k-224 mixed.npy
run ./classify --batch=3 --views=1 whole/best.safetensors data/val && cut -c1-60 out.txt | head -30 >batch3.txt &&
    cut -c1-60 table.txt | head -30 | cmp - batch3.txt
good "--option=value, and no other answer in batches of 3"
if [ -w /dev/full ]; then
    for command in "./classify whole/best.safetensors data/val" "./classify --help" "./check_data data" \
        "./evaluate whole/best.safetensors data" "./convert whole/best.safetensors --verify" \
        "./own_network data" "./own_operator" "./simulate full_disk --val 1" "./hello whole/best.safetensors mixed.npy"; do
        OMP_NUM_THREADS=1 $command >/dev/full 2>err.txt
        [ $? -eq 1 ] && grep -q '^error: .*output' err.txt
        good "a full disk on stdout is an error: $command"
    done
fi

# A bar keeps to one line of the terminal, and is lines of its own where there is none.
if script -qec 'stty cols 40' /dev/null >/dev/null 2>&1 </dev/null; then
    script -qec 'stty cols 40; ./simulate drawn --train 30 --size 20' /dev/null </dev/null 2>&1 | tr '\r' '\n' >out.txt
    grep -q '^images \[[# ]*\] [0-9]*/90' out.txt && ! grep -E '^images .{33}' out.txt
    good "a progress bar fits 40 columns"
    for columns in 80 40; do
        rm -rf narrow
        script -qec "stty cols $columns; ./train data --weights none --size 32 --epochs 1 --limit 8 --batch 8 --out narrow" \
            /dev/null </dev/null 2>&1 | tr '\r' '\n' >out.txt
        grep -E '^(epoch )? *1/1  .*AUC [01]' out.txt >line.txt && ! grep -qE "^.{$columns}" line.txt
        good "the line of an epoch fits $columns columns"
    done
fi
run ./simulate undrawn --train 30 --size 20 && ! grep -q "$(printf '\r')" err.txt
good "no carriage returns into a file"

# libgomp ends a program that asks for more threads than the system grants: none asks for more than there
# are processors.
if [ "$(getconf _NPROCESSORS_ONLN)" -le 16 ] && (ulimit -v 900000) 2>/dev/null; then
    ./classify --csv whole/best.safetensors mixed.npy >wanted.txt
    (ulimit -v 900000; OMP_NUM_THREADS=128 ./classify --csv whole/best.safetensors mixed.npy) >out.txt 2>err.txt &&
        cmp out.txt wanted.txt
    good "OMP_NUM_THREADS=128 where the system would not grant them"
fi

# ---- layouts -----------------------------------------------------------------------------------------

run ./check_data data && grep -q 'nothing wrong' out.txt
good "check_data"
spoil mv bad/val bad/valid
run ./check_data bad
[ $? -eq 1 ] && grep -q "bad/valid: no program reads this folder; is 'val' meant?" out.txt
good "check_data names a folder that train would not read"
refused "there is no folder 'val' in it, but one named 'valid'" $train
spoil sh -c './simulate shifted --val 12 --preset model1 --seed 9 >/dev/null && rm -r bad/val && cp -r shifted/val bad/val'
run ./check_data bad
[ $? -eq 1 ] && grep -q "train and val differ in the mean of 'no'" out.txt
good "check_data finds a split of other images"
# An image of noise: the bits of weights.
make_noise() {
    printf '\223NUMPY\001\000v\000%-117s\n' "{'descr': '|u1', 'fortran_order': False, 'shape': (150, 150), }"
    tail -c 22500 $atto
}
spoil true
make_noise >bad/train/no/noise.npy
run ./check_data bad --weights ../../weights/lensnet-atto.safetensors
[ $? -eq 1 ] && grep -q 'bad/train/no/noise.npy: foreign to the weights' out.txt
good "check_data finds noise among lenses"
# An image one folder deeper, one that ends in .NPY, and files that are none: the three programs agree.
spoil sh -c "mkdir bad/train/no/part1 && mv bad/train/no/000000.npy bad/train/no/part1 &&
    mv bad/train/no/000001.npy bad/train/no/000001.NPY && echo x >bad/train/no/notes.txt"
run ./check_data bad && grep -q '^train  no  *16 ' out.txt && grep -q '1 file was passed over.*notes.txt' out.txt
good "check_data counts images in folders inside, and names what it passes over"
run $train --epochs 1 --stop-after 1 && grep -q 'no 16, sphere 16, vort 16' out.txt &&
    grep -q '1 file was passed over.*notes.txt' out.txt
good "train does the same"
rm -rf refused
run ./classify whole/best.safetensors bad/train/no && [ "$(grep -c '%$' out.txt)" -eq 16 ]
good "classify does the same"
# No splits at all.
rm -rf flat && mkdir flat && cp -r data/train/no data/train/sphere flat && cp -r data/train/vort flat/axion
refused "let --split 80/10/10 share out" ./train flat --weights none --out refused
run ./train flat --weights none --size 32 --epochs 1 --batch 8 --out shared --split=50/25/25 --classes axion=vort &&
    grep -q 'train *24 images (no 8, sphere 8, vort 8)' out.txt && grep -q 'shared out 50/25/25' out.txt
good "train --split"
refused "begun with --split 50/25/25, not 80/10/10" ./train flat --resume --out shared --split 80/10/10
refused "not one of the classes" ./evaluate whole/best.safetensors flat --out refused
rm -rf spelled && mkdir spelled && cp -r data/train spelled/Train && cp -r data/val spelled/Validation
refused "one named 'Train'; rename it to train" ./train spelled --weights none --split 80/10/10 --out refused
mkdir spelled/testing && refused "one named 'testing'; rename it to test" ./evaluate whole/best.safetensors spelled
mv spelled/Train spelled/train
refused "one named 'Validation'; rename it to val" ./train spelled --weights none --split 80/10/10 --out refused
run ./evaluate whole/best.safetensors flat --classes axion=vort && grep -q 'accuracy  *[0-9.]*  *48' out.txt &&
    grep -q 'all 48 images in it are measured' err.txt
good "evaluate on a flat set"
run ./evaluate whole/best.safetensors data --split val && grep -q "no folder 'test'" err.txt
good "evaluate --split val says that it is half"

# ---- weights -----------------------------------------------------------------------------------------

# answers OPTIONS ...: what classify says of an image, without the name of anything
answers() { run ./classify --csv "$@" mixed.npy && sed 1d out.txt | cut -d, -f5-; }
answers whole/best.safetensors >wanted.txt
answers whole/huggingface | cmp - wanted.txt
good "a Hugging Face folder answers as its weights do"
refused "2 labels are said" ./classify --labels a,b whole/best.safetensors mixed.npy
run ./classify --csv --labels axion,cdm,no_sub --size 40 --crop 100 --normalise minmax whole/best.safetensors \
    mixed.npy && head -1 out.txt | grep -q ',axion,cdm,no_sub$'
good "classify --labels --size --crop --normalise"
cp out.txt said.txt
run ./convert whole/best.safetensors told.safetensors --labels axion,cdm,no_sub --size 40 --crop 100 \
    --normalise minmax && run ./classify --csv told.safetensors mixed.npy && cmp out.txt said.txt
good "what convert is told, classify then knows"
refused 'lensnet.image_size is "16"; expected a whole number, 32 ... 8192' \
    ./classify --size 16 whole/best.safetensors mixed.npy
refused 'imagenet, minmax+imagenet or dataset, found "zscore"' \
    ./classify --normalise zscore whole/best.safetensors mixed.npy
refused "--views is one of 1, 8, not '3'" ./classify --views 3 whole/best.safetensors mixed.npy
refused "2 labels are said" ./convert whole/best.safetensors refused --labels a,b
for kind in lfs page json; do
    case $kind in
    lfs) words='git lfs pull' && echo 'version https://git-lfs.github.com/spec/v1' >wrong.$kind ;;
    page) words='resolve/main' && echo '<!DOCTYPE html><html><body>Quota exceeded</body></html>' >wrong.$kind ;;
    json) words='give the folder it lies in' && echo '{"model_type": "convnextv2"}' >wrong.$kind ;;
    esac
    refused "$words" ./classify wrong.$kind mixed.npy
done
mkdir -p shards && echo '{"weight_map": {"a": "pytorch_model-00001-of-00002.bin"}}' >shards/pytorch_model.bin.index.json
refused "max_shard_size" ./classify shards mixed.npy
refused "max_shard_size" ./classify shards/pytorch_model.bin.index.json mixed.npy
mkdir -p unusual && cp whole/best.safetensors unusual/my_model.safetensors && : >unusual/lora.pth
refused "has no model.safetensors in it, but 'lora.pth', 'my_model.safetensors'" ./classify unusual mixed.npy
mkdir -p copied && run ./convert whole/best.safetensors copied --folder &&
    run grep -qx '  "image_size": 32,' copied/config.json && run grep -q '"0": "no"' copied/config.json
good "convert --folder keeps labels and size"
shipped=../../weights/lensnet-atto.safetensors # calibrated
run ./convert $shipped again.safetensors && answers $shipped >wanted.txt && answers again.safetensors | cmp - wanted.txt
good "convert keeps the calibration"
# transformers knows no temperature. chances WEIGHTS: the probabilities
chances() {
    run ./classify --csv "$1" mixed.npy && awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i }
        NR == 2 { print $at["no"], $at["sphere"], $at["vort"] }' out.txt
}
rm -rf copied && run ./convert $shipped copied --folder && grep -q 'divided by the temperature' out.txt &&
    { chances $shipped && chances copied; } | awk '{ for (i = 1; i <= 3; i++) { d = $i - last[i]; last[i] = $i
        if (NR == 2 && (d > 1e-5 || d < -1e-5)) bad = 1 } n += NF } END { exit bad || n != 6 }'
good "convert --folder makes the folder, and its last layer has the temperature in it"

# ---- files -------------------------------------------------------------------------------------------

run ./classify --csv whole/best.safetensors $fixtures/pair_4.npy $fixtures/deflated.npz $fixtures/i8.fits &&
    [ "$(cut -d, -f5- out.txt | tail -3 | sort -u | wc -l)" -eq 1 ]
good "the same image as object array, .npz and FITS has one answer"
complained "--bands 3" ./classify whole/best.safetensors $fixtures/bands.fits
complained "tile-compressed" ./classify whole/best.safetensors $fixtures/compressed.fits
run ./classify --csv whole/best.safetensors $fixtures/cube.fits && [ "$(wc -l <out.txt)" -eq 12 ] &&
    grep -q 'cube.fits\[0\]\[10\],' out.txt
good "classify takes a cube apart"
run ./classify --csv --nan median whole/best.safetensors "$fixtures/f8_extensions.fits" &&
    grep -q ',"it.s ""lens"" 7",22.5,-0.51,' out.txt && grep -q 'replaced in 1 image' err.txt
good "classify --nan median, and OBJECT, RA and DEC of a FITS file"
complained "--nan median" ./classify whole/best.safetensors "$fixtures/f8_extensions.fits"
rm -rf colour && for split in train val; do for class in a b; do
    mkdir -p colour/$split/$class
    for i in 0 1 2 3; do cp $fixtures/bands.fits colour/$split/$class/$i.fits; done
done; done
run ./train colour --weights none --size 32 --epochs 1 --batch 4 --bands 3 --stretch asinh --out coloured &&
    run ./classify coloured/best.safetensors $fixtures/bands.fits
good "train and classify in three bands"
complained "takes images of 3 bands" ./hello coloured/best.safetensors mixed.npy
complained "of 1 band, but the network takes 3" ./finetune coloured/best.safetensors data refused.safetensors
complained "1 band, but images of 3 are wanted" ./classify coloured/best.safetensors $fixtures/u1.fits
run ./classify whole/best.safetensors $fixtures/u1.fits && grep -q 'not 150 x 150 pixels' err.txt
good "an image of another size than the network knows is said so"
printf '\223NUMPY\001\000v\000%-117s\n\007\007\007\007' \
    "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2), }" >blank.npy
complained "every pixel is 7" ./classify --csv whole/best.safetensors blank.npy
run ./hello whole/best.safetensors blank.npy && grep -q '^nothing: every pixel is 7' out.txt
good "hello does not call a blank image a vortex"
make_noise >noise.npy
run ./hello $atto noise.npy && grep -q '^unknown (foreign: [0-9.]* times the limit)$' out.txt
good "nor noise"

# ---- catalogues --------------------------------------------------------------------------------------

strange=$(printf 'odd \033[31m\nname.npy')
cp mixed.npy "$strange"
run ./classify whole/best.safetensors "$strange" && grep -q '^odd \\x1b\[31m\\nname.npy ' out.txt &&
    ! grep -q "$(printf '\033')" out.txt
good "a name with escapes cannot reach the terminal"
run ./classify --csv whole/best.safetensors "$strange" && [ "$(wc -l <out.txt)" -eq 2 ]
good "nor another line of a table"
{
    echo 'id,file,ra,dec'
    for i in 0 1 2 3 4 5 6; do echo "\"G, $i\",data/val/no/00000$i.npy,10.$i,-5"; done
} >list.csv
run ./classify --csv --list list.csv whole/best.safetensors && cp out.txt all.csv && [ "$(wc -l <all.csv)" -eq 8 ] &&
    grep -q '^data/val/no/000003.npy,"G, 3",10.3,-5,' all.csv
good "classify --list"
sed 1d list.csv | cut -d, -f3 | ./classify --csv --list - whole/best.safetensors 2>err.txt | cut -d, -f5- >plain.txt &&
    cut -d, -f6- all.csv | sed 1d >some.txt && sed 1d plain.txt | cmp - some.txt
good "classify --list - takes plain paths"
# parts N OPTION ...: the seven images in N parts; the tables are named so that a shell puts them in another order
in_parts() {
    parts=$1
    shift
    for i in $(seq "$parts"); do
        ./classify "$@" --list list.csv --part "$i/$parts" whole/best.safetensors >"part-$i.txt" 2>>err.txt || break
    done
}
for kind in csv json; do
    for count in 3 11; do
        rm -f part-*.txt
        ./classify --$kind --list list.csv whole/best.safetensors >whole.txt 2>err.txt
        in_parts $count --$kind
        ./classify --merge part-*.txt | cmp - whole.txt && [ ! -s err.txt ]
        good "$count parts of 7 images are the whole, to the byte: $kind"
    done
done
cp part-3.txt part-3.json
rm -f part-*.txt
in_parts 3 --csv
refused "--part is I/N" ./classify --csv --part 4/3 whole/best.safetensors data/val
refused "part 2 of 3 is missing" ./classify --merge part-1.txt part-3.txt
refused "part-1.txt and part-1.txt are both part 1 of 3" ./classify --merge part-*.txt part-1.txt
refused "part-1.txt is one part of 3, and part-3.json one of 11" ./classify --merge part-1.txt part-3.json
refused "all.csv: it does not end with the mark of a part" ./classify --merge part-1.txt part-2.txt all.csv
./classify --csv --nan zero --list list.csv --part 3/3 whole/best.safetensors >other.txt 2>err.txt
refused "other.txt has other images, weights or options than part-1.txt" ./classify --merge part-1.txt part-2.txt other.txt
./classify --csv --list list.csv --part 3/3 $atto >other.txt 2>err.txt
refused "other.txt has other images, weights or options than part-1.txt" ./classify --merge part-1.txt part-2.txt other.txt
head -n -1 part-2.txt >other.txt
refused "its job was ended before its time" ./classify --merge part-1.txt other.txt part-3.txt
sed 2d part-2.txt >other.txt
refused "it does not have the rows that its mark speaks of" ./classify --merge part-1.txt other.txt part-3.txt

# ---- an evaluation in parts ---------------------------------------------------------------------------

judge="./evaluate --threads 1 --split val"
run ./simulate seven --val 3,2,2 --test 1 --size 32
run $judge --out judged-parts $atto seven && mv judged-parts judged-once && cp out.txt judged.txt
good "evaluate on seven images"
for count in 3 8; do
    rm -rf share-*.csv judged-parts
    for i in $(seq $count); do $judge --part "$i/$count" $atto seven >"share-$i.csv" 2>>err.txt || break; done
    run $judge --merge --out judged-parts $atto seven share-*.csv && cmp out.txt judged.txt &&
        for folder in judged-once judged-parts; do sed -i '/^command: /d; /^date: /d; /"row">command</d; /"row">date</d' $folder/provenance.txt $folder/report.html; done &&
        run diff -r judged-once judged-parts && grep -q "rows, of 7 images" share-1.csv
    good "$count parts of 7 images make the report, figures and table of the undivided run, to the byte"
done
refused "part 7 of 8 is missing" $judge --merge --out refused $atto seven share-[1-6].csv share-8.csv
refused "share-2.csv and share-2.csv are both part 2 of 8" $judge --merge --out refused $atto seven share-*.csv share-2.csv
refused "share-1.csv is not of these images, weights and options" $judge --nan zero --merge --out refused $atto seven share-*.csv
refused "it does not end with the mark of a part" $judge --merge $atto seven judged.txt
sed 's/^[012],/3,/' share-8.csv >share.bad
refused "share.bad: its line 3 is not a row of evaluate --part" $judge --merge $atto seven share-[1-7].csv share.bad
refused "--part is for one classifier" $judge --part 1/2 --out refused $atto seven

# ---- where it looks ----------------------------------------------------------------------------------

run ./classify --csv --explain looks --list list.csv whole/best.safetensors && cmp out.txt all.csv &&
    [ "$(find looks -type f | wc -l)" -eq 7 ] && [ "$(grep -c 'data:image/png' looks/000004-000003.svg)" -eq 2 ] &&
    grep -q '^<desc>data/val/no/000003.npy by whole/best.safetensors; lensnet [0-9.]*, numerics [0-9]' looks/000004-000003.svg
good "classify --explain draws a figure for each row, and changes no answer"
cp -r looks once && run ./classify --explain looks --threads 1 --batch 2 --list list.csv whole/best.safetensors &&
    diff -r looks once >/dev/null
good "the figures are the same bytes whatever the threads and the batch"
refused "choose another --explain" ./classify --csv --explain mixed.npy/looks whole/best.safetensors mixed.npy
