#!/bin/sh
# Chromium for the console's tests: the one that is there, or Debian's.
set -eu
for program in chromium chromium-browser google-chrome; do
    if command -v "$program" >/dev/null; then exit 0; fi
done
if command -v apt-get >/dev/null; then
    if [ "$(id -u)" = 0 ]; then as_root=""; elif sudo -n true 2>/dev/null; then as_root="sudo"; else as_root=no; fi
    if [ "$as_root" != no ]; then
        echo "Installing Chromium for the console's tests"
        $as_root apt-get update -qq
        DEBIAN_FRONTEND=noninteractive $as_root apt-get install -qq -y --no-install-recommends \
            chromium fonts-dejavu-core >/dev/null
        exit 0
    fi
fi
echo "The console's tests need Chromium, which is not on the PATH. Install it (Debian: apt-get" \
    "install chromium; else from https://www.chromium.org), and run this again." >&2
exit 1
