#!/bin/sh
# Installs the S3 servers that integration/s3 starts, and only what is missing.
# They are built by go install, outside of the repository and of go.mod, into
# STEPFS_SERVERS (~/.cache/stepfs/servers), each under a name with its version:
# a new version here is another file there.
#
#   tools/servers.sh         versitygw and gofakes3
#   tools/servers.sh minio   MinIO as well, which takes some minutes
set -eu

versitygw=v1.8.0
gofakes3=v1.2.0
minio=v0.0.0-20260212201848-7aac2a2c5b7c

dir=${STEPFS_SERVERS:-${XDG_CACHE_HOME:-$HOME/.cache}/stepfs/servers}
mkdir -p "$dir"

# install NAME VERSION PACKAGE
install() {
	[ -x "$dir/$1-$2" ] && return
	echo "servers: building $1 $2 into $dir" >&2
	tmp=$(mktemp -d "$dir/build.XXXXXX")
	trap 'rm -rf "$tmp"' EXIT
	GOBIN=$tmp GOFLAGS='-p=1 -trimpath' nice -n 10 go install "$3@$2"
	mv "$tmp/$1" "$dir/$1-$2"
	rm -rf "$tmp"
}

install versitygw $versitygw github.com/versity/versitygw/cmd/versitygw
install gofakes3 $gofakes3 github.com/johannesboyne/gofakes3/cmd/gofakes3
[ "${1:-}" != minio ] || install minio $minio github.com/minio/minio
