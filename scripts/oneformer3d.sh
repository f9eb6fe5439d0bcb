# Functions of train_s3dis.sh, eval_s3dis.sh, train_scannet.sh and eval_scannet.sh, which source this file.
# shellcheck shell=bash

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
caller=$PWD

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

# usage train|eval DATASET
usage() {
    local script="scripts/$1_$2.sh" arguments="" purpose="Trains OneFormer3D on $2 with its own tools/train.py"
    if [[ $1 == eval ]]; then
        arguments=" [CHECKPOINT]"
        purpose="Evaluates a checkpoint of OneFormer3D on $2 with its own tools/test.py"
    fi
    cat <<EOF
$purpose.

    $script baseline$arguments [OPTIONS]          its InstanceCriterion, with matching
    $script influencerformer$arguments [OPTIONS]  InfluencerCriterion, everything else alike

OPTIONS go to tools/$([[ $1 == eval ]] && echo test || echo train).py, for example:
    --work-dir DIR            for checkpoints and logs; work_dirs/CONFIG in OneFormer3D's folder by default
EOF
    if [[ $1 == train ]]; then
        cat <<'EOF'
    --resume [CHECKPOINT]     go on from there, or from the latest in the work dir; if it has none, a new run starts
    --amp                     mixed precision
    --cfg-options KEY=VALUE   e.g. load_from=None (from scratch), train_dataloader.batch_size=2
EOF
    else
        cat <<'EOF'
    --cfg-options KEY=VALUE   e.g. model.test_cfg.topk_insts=200
CHECKPOINT is the latest in the work dir by default. One whose sparse convolutions would not load as they are is
converted into a copy beside it, NAME_spconv.pth; no checkpoint is ever overwritten.
EOF
    fi
    cat <<'EOF'

Environment:
    ONEFORMER3D_ROOT  OneFormer3D's folder; else it is looked for on PYTHONPATH and beside this repository
    GPUS=4            processes, one a GPU, through torchrun (default 1); the batch size is that of each
    PORT or MASTER_PORT  of torchrun; a free one by default
    DEVICE=cpu        run without CUDA, with stand-ins for what does not build there (default cuda)
    DATA_ROOT         the folder of the prepared data set; data/DATASET in OneFormer3D's folder by default
    PYTHON            the interpreter that has mmdetection3d, e.g. .venv-mmdet3d/bin/python (default python)
The tools run in OneFormer3D's folder, so paths inside configurations and --cfg-options are relative to it, as in its
README; other paths are relative to where you are. Checkpoints are unpickled: use only those whose origin you trust.
docs/integration_guide.md explains it all.
EOF
}

# absolute PATH: as seen from where the caller is
absolute() {
    case $1 in
        /*) printf '%s' "$1" ;;
        *) printf '%s' "$caller/$1" ;;
    esac
}

is_root() {
    [[ -f $1/oneformer3d/__init__.py && -f $1/tools/train.py ]]
}

# Sets and exports ONEFORMER3D_ROOT and PYTHONPATH.
find_root() {
    local advice="git clone https://github.com/filaPro/oneformer3d and set ONEFORMER3D_ROOT to its folder."
    local root="" candidate candidates=()
    if [[ -n ${ONEFORMER3D_ROOT:-} ]]; then
        root=$(absolute "$ONEFORMER3D_ROOT")
        is_root "$root" || fail "ONEFORMER3D_ROOT=$ONEFORMER3D_ROOT holds no OneFormer3D (oneformer3d/__init__.py" \
            "and tools/train.py): $advice"
    else
        IFS=: read -r -a candidates <<<"${PYTHONPATH:-}"
        for candidate in "${candidates[@]}" "$repository/../oneformer3d"; do
            if [[ -n $candidate ]] && is_root "$(absolute "$candidate")"; then
                root=$(absolute "$candidate")
                break
            fi
        done
        [[ -n $root ]] || fail "OneFormer3D was not found in ONEFORMER3D_ROOT, on PYTHONPATH or at" \
            "$(dirname "$repository")/oneformer3d: $advice"
    fi
    ONEFORMER3D_ROOT=$(cd "$root" && pwd)
    export ONEFORMER3D_ROOT PYTHONPATH="$ONEFORMER3D_ROOT:$repository${PYTHONPATH:+:$PYTHONPATH}"
}

# Sets python.
find_python() {
    python=${PYTHON:-python}
    [[ $python != */* ]] || python=$(absolute "$python")
    command -v "$python" >/dev/null || fail "There is no interpreter ${PYTHON:-python}: set PYTHON to that of the" \
        "environment that has mmdetection3d, such as .venv-mmdet3d/bin/python after make mmdet3d."
}

# Reads DEVICE, GPUS and DATA_ROOT.
read_environment() {
    device=${DEVICE:-cuda}
    gpus=${GPUS:-1}
    [[ $device == cuda || $device == cpu ]] || fail "DEVICE must be cuda or cpu, got $device."
    [[ $gpus =~ ^[1-9][0-9]*$ ]] || fail "GPUS must be a number of GPUs from 1, got $gpus."
    [[ $device == cuda || $gpus == 1 ]] || fail "GPUS=$gpus needs DEVICE=cuda, got DEVICE=cpu: leave out one of them."
    if [[ -n ${DATA_ROOT:-} ]]; then
        DATA_ROOT=$(absolute "$DATA_ROOT")
        export DATA_ROOT
    fi
    if [[ $device == cpu ]]; then
        export CUDA_VISIBLE_DEVICES=""
    fi
    export TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1
}

# find_config DATASET baseline|influencerformer: sets config and name.
find_config() {
    local prefix
    case $2 in
        baseline) prefix=oneformer3d ;;
        influencerformer) prefix=influencerformer ;;
        *) fail "The first argument must be baseline or influencerformer, got ${2:-nothing}: see --help." ;;
    esac
    case $1 in
        s3dis) name=${prefix}_1xb4_s3dis-area-5 ;;
        scannet) name=${prefix}_1xb2_scannet ;;
    esac
    config=$repository/configs/$1/$name.py
}

# read_options OPTION...: sets work_dir, resume (an array of none or one option) and options, the rest.
read_options() {
    work_dir=$ONEFORMER3D_ROOT/work_dirs/$name
    resume=()
    options=()
    while (($#)); do
        case $1 in
            --work-dir)
                (($# > 1)) || fail "--work-dir needs a folder after it."
                work_dir=$(absolute "$2")
                shift
                ;;
            --work-dir=*) work_dir=$(absolute "${1#*=}") ;;
            --resume=*) resume=("--resume=$(absolute "${1#*=}")") ;;
            --resume)
                resume=(--resume)
                if (($# > 1)) && [[ $2 != -* ]]; then
                    resume=("--resume=$(absolute "$2")")
                    shift
                fi
                ;;
            *) options+=("$1") ;;
        esac
        shift
    done
}

# run_tool train|test ARGUMENT...: checks what it will need, then becomes the tool.
run_tool() {
    local tool=$ONEFORMER3D_ROOT/tools/$1.py completed arguments launch=("$python")
    cd "$ONEFORMER3D_ROOT" || fail "OneFormer3D's folder $ONEFORMER3D_ROOT cannot be entered: check its permissions."
    completed=$("$python" "$repository/scripts/oneformer3d_check.py" "$1" --device "$device" --gpus "$gpus" \
        -- "${@:2}") || exit $?
    mapfile -t arguments <<<"$completed"
    if [[ $device == cpu ]]; then
        launch+=("$repository/scripts/oneformer3d_cpu.py")
    elif ((gpus > 1)); then
        local port=${PORT:-${MASTER_PORT:-}}
        launch+=(-m torch.distributed.run "--nproc_per_node=$gpus")
        if [[ -n $port ]]; then
            launch+=("--master_port=$port")
        else
            launch+=(--standalone)
        fi
        arguments+=(--launcher pytorch)
    fi
    exec "${launch[@]}" "$tool" "${arguments[@]}"
}

# prepare train|eval DATASET ARGUMENT...: help, and everything that both need.
prepare() {
    if [[ " ${*:3} " == *" -h "* || " ${*:3} " == *" --help "* ]]; then
        usage "$1" "$2"
        exit 0
    fi
    find_config "$2" "${3:-}"
    find_root
    read_environment
    find_python
}

# train DATASET baseline|influencerformer [OPTION...]
train() {
    prepare train "$@"
    read_options "${@:3}"
    if [[ ${resume[*]:-} == --resume && ! -f $work_dir/last_checkpoint ]]; then
        echo "note: nothing to resume in $work_dir: this is a new run" >&2
        resume=()
    fi
    run_tool train "$config" --work-dir "$work_dir" "${resume[@]}" "${options[@]}"
}

# latest_checkpoint FOLDER: prints what mmengine noted down as the last, or the epoch_*.pth of the highest number.
latest_checkpoint() {
    local noted path
    if [[ -f $1/last_checkpoint ]]; then
        noted=$(<"$1/last_checkpoint")
        for path in "$noted" "$1/${noted##*/}"; do
            if [[ -f $path ]]; then
                printf '%s' "$path"
                return
            fi
        done
    fi
    if [[ -d $1 ]]; then
        find "$1" -maxdepth 1 -name 'epoch_*.pth' ! -name '*_spconv.pth' | sort -V | tail -n 1
    fi
}

# evaluate DATASET baseline|influencerformer [CHECKPOINT] [OPTION...]
evaluate() {
    local checkpoint=""
    prepare eval "$@"
    if (($# > 2)) && [[ $3 != -* ]]; then
        checkpoint=$(absolute "$3")
        [[ -f $checkpoint ]] || checkpoint=$ONEFORMER3D_ROOT/$3
        [[ -f $checkpoint ]] || fail "There is no checkpoint $3, neither in $caller nor in $ONEFORMER3D_ROOT: name" \
            "one that scripts/train_$1.sh wrote, such as epoch_512.pth, or none for the latest of the work dir."
        set -- "$1" "$2" "${@:4}"
    fi
    read_options "${@:3}"
    if [[ -z $checkpoint ]]; then
        checkpoint=$(latest_checkpoint "$work_dir")
        [[ -n $checkpoint ]] || fail "There is no checkpoint in $work_dir: train first with scripts/train_$1.sh $2," \
            "or name one after $2."
    fi
    run_tool test "$config" "$checkpoint" --work-dir "$work_dir" "${options[@]}"
}
