#!/bin/sh
# Removes what test runs that were killed have left behind: mounts whose daemon
# is dead, and loop devices, directories and network namespaces of runs whose
# process is gone. What somebody still runs is left alone.
set -u
tmp=${TMPDIR:-/tmp}

awk '$5 ~ "^'"$tmp"'/stepfs-" && / - fuse/ {print $5}' /proc/self/mountinfo | while read -r dir; do
	# A dead one answers at once, with ENOTCONN; a daemon that lives may take its time.
	case $(LC_ALL=C timeout 2 stat "$dir" 2>&1) in
	*'not connected'*)
		echo "sweep: unmounting $dir: its daemon is dead"
		umount -l "$dir"
		;;
	esac
done
ip netns list 2>/dev/null | sed -n 's/^\(stepfs-\([0-9]*\)-[0-9]*\).*/\1 \2/p' | while read -r net pid; do
	kill -0 "$pid" 2>/dev/null && continue
	echo "sweep: removing the network namespace $net: nobody runs it any more"
	ip netns del "$net"
done
for run in "$tmp"/stepfs-run-*-*; do
	[ -d "$run" ] || continue
	pid=${run##*/stepfs-run-}
	pid=${pid%%-*}
	kill -0 "$pid" 2>/dev/null && continue
	losetup -a 2>/dev/null | grep -F "($run/" | cut -d: -f1 | while read -r dev; do
		awk -v d="$dev" '$0 ~ " - [^ ]* " d " " {print $5}' /proc/self/mountinfo | xargs -r -n 1 umount -l
		losetup -d "$dev"
	done
	grep -qF " $run/" /proc/self/mountinfo && continue
	echo "sweep: removing $run: nobody runs it any more"
	rm -rf "$run"
done
exit 0
