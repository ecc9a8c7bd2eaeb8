#!/usr/bin/env bash
# Slurm for tests/cluster, where that is possible: as root on Debian or Ubuntu. Elsewhere the test is skipped.
set -eu
command -v slurmctld slurmd munged > /dev/null && exit
[ "$(id -u)" = 0 ] && command -v apt-get > /dev/null || { echo "no Slurm: not root, or no apt-get" >&2; exit; }
export DEBIAN_FRONTEND=noninteractive
packages="slurmctld slurmd slurm-client munge"
timeout 300 bash -c "apt-get -qq update && apt-get -qq install -y --no-install-recommends \
  -o DPkg::Lock::Timeout=120 $packages > /dev/null" || echo "no Slurm: the packages could not be installed" >&2
