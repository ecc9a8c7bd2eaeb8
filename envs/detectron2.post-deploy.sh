#!/usr/bin/env bash
# Installs detectron2 for the first `python` in PATH. It is not on a package registry: this is its main branch of June 2026,
# built from source in five minutes on one core. The build is not isolated, because it imports the installed PyTorch.
set -euo pipefail
python -m pip install 'setuptools<82' wheel ninja
python -m pip install --no-build-isolation \
  'detectron2 @ git+https://github.com/facebookresearch/detectron2@02b5c4e295e990042a714712c21dc79b731e8833'
