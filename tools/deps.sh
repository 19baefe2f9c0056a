#!/bin/sh
# Installs what building, testing and the demo need beyond Go, and only what is
# missing: a second run costs a few milliseconds and needs no network.
#
#   tools/deps.sh          everything
#   tools/deps.sh demo     what the demo alone needs
set -eu

missing=
need_command() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
need_file() { [ -e "$1" ] || missing="$missing $2"; }

PATH=$PATH:/usr/sbin:/sbin
need_command fusermount3 fuse3
need_command /usr/bin/python3 python3
/usr/bin/python3 -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)' 2>/dev/null ||
	missing="$missing python3-torch"
# Without a threaded BLAS a training step of the demo takes several times as long.
need_file "/usr/lib/$(uname -m)-linux-gnu/openblas-pthread" libopenblas0-pthread
if [ "${1:-all}" != demo ]; then
	need_command gcc gcc # the race detector links with it
	need_command strace strace
	need_command rsync rsync
	need_command mkfs.ext4 e2fsprogs
	need_command mkfs.xfs xfsprogs
	need_command mkfs.btrfs btrfs-progs
	need_command losetup mount
	need_command ip iproute2
	need_command unshare util-linux
	need_command taskset util-linux
	need_command setpriv util-linux
	need_command findmnt util-linux
	need_command systemd-analyze systemd
	need_command sqlite3 sqlite3
	need_command git git
	need_command fio fio
	need_command stress-ng stress-ng
	need_command dbench dbench
	need_command restic restic
	need_command borg borgbackup
	need_command setfattr attr
	need_command setfacl acl
	/usr/bin/python3 -c 'import h5py' 2>/dev/null || missing="$missing python3-h5py"
fi
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then sudo=; else sudo=sudo; fi
echo "deps: installing$missing" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# shellcheck disable=SC2086 # a list of words on purpose
if ! { $sudo apt-get update -qq &&
	DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends $missing; } >"$log" 2>&1; then
	tail -n 20 "$log" >&2
	echo "deps: apt-get failed; install by hand:$missing" >&2
	exit 1
fi
