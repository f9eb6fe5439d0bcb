#!/usr/bin/env bash
# Evaluates a checkpoint of OneFormer3D on ScanNet; --help explains it.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/oneformer3d.sh"
evaluate scannet "$@"
