#!/bin/sh
# Fails when something of stepfs outlived the command that used it: a mount, a
# daemon, a loop device, a network namespace of a test. Run it when nothing of
# stepfs is meant to be running.
set -u
bad=0

mounts=$(grep -E ' - fuse\.(stepfs|loopback)| - fuse [^ ]*stepfs' /proc/self/mountinfo)
if [ -n "$mounts" ]; then
	echo "leftover mounts:"
	echo "$mounts"
	bad=1
fi
for exe in /proc/[0-9]*/exe; do
	case $(readlink "$exe" 2>/dev/null) in
	*/stepfs | */stepfs' (deleted)' | */stepfs-race*)
		pid=${exe#/proc/}
		pid=${pid%/exe}
		echo "leftover process $pid: $(tr '\0' ' ' <"/proc/$pid/cmdline")"
		bad=1
		;;
	esac
done
loops=$(losetup -a 2>/dev/null | grep stepfs)
if [ -n "$loops" ]; then
	echo "leftover loop devices:"
	echo "$loops"
	bad=1
fi
nets=$(ip netns list 2>/dev/null | grep '^stepfs-')
if [ -n "$nets" ]; then
	echo "leftover network namespaces:"
	echo "$nets"
	bad=1
fi
[ $bad = 0 ] && echo "leftovers: none"
exit $bad
