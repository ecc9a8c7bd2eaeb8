#!/usr/bin/env bash
# Installs Debian's Chromium for the tests of report.html, where that can be done: as root, with apt.
# Everywhere else it does nothing, and these tests are skipped with the reason.
set -euo pipefail
if ! command -v chromium >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium fonts-dejavu-core; } \
    >/dev/null || echo "Chromium could not be installed: the tests of report.html will be skipped" >&2
fi
