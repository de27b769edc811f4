# programs_backbones.sh - part of programs.sh (read by it, in its folder): a network of examples/backbones.h
# through all programs, and what they refuse.

other="--weights none --recipe scratch --variant resnet18 --size 32 --batch 8 --limit 8 --epochs 2 --warmup 0"
# shellcheck disable=SC2086
run ./train data $other --drop-path 0.2 --average 0.9 --out residual-whole --folder --threads 2 &&
    grep -q '"architecture": "resnet18"' residual-whole/huggingface/config.json &&
    grep -q '^library_name: timm' residual-whole/huggingface/README.md &&
    grep -q '^network      resnet18, 11' out.txt
good "train --variant resnet18"
# shellcheck disable=SC2086
run ./train data $other --drop-path 0.2 --average 0.9 --stop-after 2 --out residual --threads 1 &&
    run ./train --resume --out residual --threads 2 --folder && cmp residual-whole/last.safetensors residual/last.safetensors &&
    cmp residual-whole/best.safetensors residual/best.safetensors
good "resnet18 ends with the same bytes when stopped"
network=residual/best.safetensors
run ./classify residual-whole/huggingface data/val/no
good "the folder for timm classifies"
rm -rf residual-whole residual/last* residual/huggingface
grep -aqF '"lensnet.architecture":"resnet18"' $network
good "best.safetensors says that it is a resnet18"
run ./classify --csv $network data/val/no && [ "$(wc -l <out.txt)" -eq 13 ] && mv out.txt residual.csv
good "classify takes a resnet18"
run ./classify --explain residual-looks $network data/val/no && [ -s residual-looks/000001-000000.svg ]
good "classify --explain draws where a resnet18 looks"
run ./evaluate --calibrate --split train $network data && run ./evaluate $network data --split val --out residual-report &&
    [ -s residual-report/report.html ]
good "evaluate takes a resnet18, and teaches it what to believe"
run ./evaluate $network whole/best.safetensors data --split val
good "evaluate compares it with another network"
run ./convert $network residual-half.safetensors --half && grep -q ': resnet18, 3 classes: 102 tensors' out.txt &&
    run ./classify residual-half.safetensors data/val/no
good "convert takes a resnet18"
# shellcheck disable=SC2086
run ./train data --weights $network --recipe finetune --limit 8 --batch 8 --epochs 1 --out residual-tuned &&
    grep -q 'head included' out.txt
good "train goes on from the weights of a resnet18"
rm -rf residual-tuned
refused "these are weights of resnet18, not of resnet34" ./train data --weights $network --recipe finetune \
    --variant resnet34 --out refused
refused "these are weights of resnet18, not of tiny" ./train data --weights $network --recipe finetune \
    --variant tiny --out refused
refused "there is no ConvNeXt V2 variant \"resnet19\"" ./train data --weights none --variant resnet19 --out refused
# shellcheck disable=SC2086
refused "--shards: resnet18 has batch norm" ./train data $other --shards 2 --out refused
# shellcheck disable=SC2086
refused "not of resnet18; leave the decay at 1" ./train data $other --freeze 1 --out refused
refused "is a resnet18, and this program knows ConvNeXt V2 alone" ./grow $network nano refused
rm -rf residual residual-half.safetensors
