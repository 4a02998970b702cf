#!/bin/sh
# Runs promtool: the one on the PATH, or Debian's, unpacked into build/ without installing Prometheus.
set -eu
if command -v promtool >/dev/null; then exec promtool "$@"; fi
build="$(cd "$(dirname "$0")/../.." && pwd)/build/prometheus"
if [ ! -x "$build/usr/bin/promtool" ] && command -v apt-get >/dev/null; then
    echo "Fetching promtool from Debian's package prometheus" >&2
    mkdir -p "$build"
    (
        cd "$build"
        if ! apt-get download -qq prometheus >/dev/null 2>&1; then
            if [ "$(id -u)" = 0 ]; then apt-get update -qq; else sudo -n apt-get update -qq; fi
            apt-get download -qq prometheus >/dev/null
        fi
        dpkg-deb --extract prometheus_*.deb .
        rm prometheus_*.deb
    )
fi
if [ -x "$build/usr/bin/promtool" ]; then exec "$build/usr/bin/promtool" "$@"; fi
echo "This needs promtool, which is not on the PATH. It comes with Prometheus: Debian's package" \
    "prometheus, else https://prometheus.io/download." >&2
exit 1
