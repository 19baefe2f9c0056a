#!/bin/sh
# Builds kopia, a peer of bench/series/compare, from the Go module proxy, if it is
# not there yet. `go install` wants a list of its versions, which not every proxy
# serves; a module that requires it does not.
#
#   bench/series/kopia.sh DIR    makes DIR/kopia
set -eu
version=v0.21.1
[ ! -x "$1/kopia" ] || exit 0
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$dir"
printf 'module peers\n\ngo 1.26\n\nrequire github.com/kopia/kopia %s\n' "$version" >go.mod
GOFLAGS=-mod=mod go build -o "$out/kopia" github.com/kopia/kopia
