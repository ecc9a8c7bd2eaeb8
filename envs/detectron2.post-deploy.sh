#!/usr/bin/env bash
# detectron2, into the environment whose `python` comes first. It is on no package registry: this is its main branch of
# June 2026, built from source in five minutes on one core. Its build imports the PyTorch that is there, so it is not isolated.
set -euo pipefail
python -m pip install 'setuptools<82' wheel ninja
python -m pip install --no-build-isolation \
  'detectron2 @ git+https://github.com/facebookresearch/detectron2@02b5c4e295e990042a714712c21dc79b731e8833'
