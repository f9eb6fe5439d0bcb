#!/usr/bin/env bash
# Trains OneFormer3D on ScanNet with either criterion; --help explains it.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/oneformer3d.sh"
train scannet "$@"
