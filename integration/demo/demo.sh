#!/bin/bash
# The demo: a training job writes checkpoints into a stepfs mount, loses them
# all, gets one back with cp, and goes on to the very same result.
#
# Everything is made below ./demo, which is emptied first; nothing is left
# mounted, however this ends. STEPFS is the binary to show (bin/stepfs),
# DEMO_DIR another directory than ./demo, DEMO_EVERY the steps between saves.
set -euo pipefail
cd "$(dirname "$0")/../.."

stepfs=${STEPFS:-bin/stepfs}
demo=${DEMO_DIR:-demo}
every=${DEMO_EVERY:-50}
mnt=$demo/ckpt
steps=()
for n in 1 2 3 4 5; do steps+=($((n * every))); done
middle=${steps[2]} # the one that is restored
last=${steps[4]}
train=(/usr/bin/python3 integration/demo/train.py --text LICENSE --output "$mnt" --every "$every" --steps "$last")

clean_up() {
	local code=$?
	trap - EXIT INT TERM
	jobs -p | xargs -r kill 2>/dev/null || true
	wait
	if mountpoint -q "$mnt" 2>/dev/null; then
		"$stepfs" umount "$mnt" >/dev/null 2>&1 || umount -l "$mnt" || fusermount3 -uz "$mnt"
	fi
	[ $code = 0 ] || echo "demo: ended early (exit code $code); nothing is left mounted" >&2
	exit $code
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

# show prints a command as one would type it, and runs it.
show() {
	printf '\033[36m$ %s\033[0m\n' "$*"
	"$@"
}

# run is show for what takes long: a job in the background can be interrupted
# at once, one in the foreground only when it ends.
run() {
	printf '\033[36m$ %s\033[0m\n' "$*"
	"$@" &
	wait $!
}

# check DIR STEP... compares every file of these steps with what was written.
check() {
	local dir=$1 list s
	shift
	list=$(realpath "$demo")/expected
	for s in "$@"; do
		grep " checkpoint-$s/" "$demo/written.sha256" >"$list"
		(cd "$dir" && sha256sum --check --quiet "$list")
		echo "   checkpoint-$s in $dir: $(wc -l <"$list") files, each with the SHA-256 that was written"
	done
}

# sealed STEP waits until a step is sealed.
sealed() {
	local i
	for ((i = 0; i < 600; i++)); do
		[ -d "$mnt/snapshots/$1" ] && return
		sleep 0.1
	done
	echo "demo: step $1 was not sealed" >&2
	return 1
}

if mountpoint -q "$mnt" 2>/dev/null; then
	"$stepfs" umount "$mnt"
fi
rm -rf "$demo"
mkdir -p "$mnt"

say "Mount: no server, no configuration"
show "$stepfs" mount -d --seal-quiet 2s "$demo/store" "$mnt"

say "Train, and save five checkpoints by torch.save; the job knows nothing of stepfs"
run "${train[@]}" --record "$demo/written.sha256" --losses "$demo/losses"

say "Each checkpoint has become a step, sealed once it was quiet"
for s in "${steps[@]}"; do sealed "$s"; done
show ls "$mnt/snapshots"
show "$stepfs" snapshots "$mnt"

say "Disaster: everything in the job's directory is deleted"
show find "$mnt" -mindepth 1 -delete
show ls -A "$mnt"
echo "   (nothing is left of it, but in the snapshots)"
for s in "${steps[@]}"; do check "$mnt/snapshots/$s" "$s"; done

say "Restore step $middle: a plain copy"
show cp -a "$mnt/snapshots/$middle/." "$mnt"
show ls "$mnt"
check "$mnt" "${steps[@]:0:3}"

say "Resume training from it"
run "${train[@]}" --resume "$mnt/checkpoint-$middle" --losses "$demo/losses.resumed"
tail -n $((last - middle)) "$demo/losses" >"$demo/losses.first"
cmp "$demo/losses.first" "$demo/losses.resumed"
echo "   all $((last - middle)) losses after step $middle are those of the first run, to the last bit"
check "$mnt" "${steps[@]:3}"

say "What it costs"
show "$stepfs" drain "$mnt"
show "$stepfs" snapshots "$mnt"
show "$stepfs" stats "$mnt"
"$stepfs" snapshots --json --revisions "$mnt" | /usr/bin/python3 -c '
import json, sys
steps = [json.loads(line) for line in sys.stdin]
logical, stored = sum(s["logical_bytes"] for s in steps), int(sys.argv[1])
print(f"\n   {len(steps)} snapshots of the directory: {logical / 2**20:.0f} MiB logical, {stored / 2**20:.0f} MiB stored")
' "$(du -sb "$demo/store/packs" | cut -f1)"

say "Unmount"
show "$stepfs" umount "$mnt"
if mountpoint -q "$mnt"; then
	echo "demo: still mounted" >&2
	exit 1
fi
printf '\nDone. The store is in %s: mount it again, or look into it with\n  %s snapshots %s\n' "$demo/store" "$stepfs" "$demo/store"
