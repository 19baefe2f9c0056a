package suites

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// git runs git without anybody's configuration.
func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	return shell(t, "git", append([]string{"-C", dir, "-c", "user.name=suite", "-c", "user.email=suite@localhost", "-c", "safe.directory=*"}, args...)...)
}

// TestGit works on a repository inside the mount: commits, branches and a
// merge, clones with linked and with packed objects, gc, a worktree.
func TestGit(t *testing.T) {
	files, commits := 200, 6
	if long {
		files, commits = 5000, 200
	}
	d := mount(t)
	repo := mkdir(t, d.Mnt+"/repo")
	git(t, repo, "init", "-q", "-b", "main")
	for c := range commits {
		for f := c; f < files; f += 1 + c {
			dir := fmt.Sprintf("%s/d%d/e%d", repo, f%7, f%5)
			must(t, os.MkdirAll(dir, 0o755),
				os.WriteFile(fmt.Sprintf("%s/f%d", dir, f), fmt.Appendf(nil, "commit %d\n%0*d\n", c, 10+f, f), 0o644))
		}
		must(t, os.WriteFile(repo+"/run.sh", fmt.Appendf(nil, "#!/bin/sh\nexit %d\n", c), 0o755))
		must(t, ignoreExist(os.Symlink("run.sh", repo+"/link")))
		git(t, repo, "add", "-A")
		git(t, repo, "commit", "-q", "-m", fmt.Sprint("commit ", c))
	}
	git(t, repo, "checkout", "-q", "-b", "side", "HEAD~5")
	must(t, os.WriteFile(repo+"/side", []byte("side\n"), 0o644))
	git(t, repo, "add", "side")
	git(t, repo, "commit", "-q", "-m", "side")
	git(t, repo, "checkout", "-q", "main")
	git(t, repo, "merge", "-q", "-m", "merge", "side")
	git(t, repo, "worktree", "add", "-q", d.Mnt+"/worktree", "side")
	git(t, repo, "mv", "d0", "moved")
	git(t, repo, "stash", "-q")

	git(t, d.Mnt, "clone", "-q", repo, d.Mnt+"/linked")
	git(t, d.Mnt, "clone", "-q", "file://"+repo, d.Mnt+"/packed")
	git(t, repo, "gc", "-q", "--aggressive", "--prune=now")
	git(t, repo, "repack", "-q", "-a", "-d", "-f")
	tree := git(t, repo, "ls-tree", "-r", "HEAD")
	for _, clone := range []string{"repo", "linked", "packed"} {
		cleanRepository(t, filepath.Join(d.Mnt, clone), tree)
	}
	cleanRepository(t, d.Mnt+"/worktree", "")

	again(t, d, "", byCp, byTar)
	out := native(t)
	byRsync.copy(t, d.Mnt+"/snapshots/again", out)
	for _, clone := range []string{"repo", "linked", "packed"} {
		cleanRepository(t, filepath.Join(out, clone), tree)
		// git looks into a repository that it can't write to, too.
		if got := git(t, filepath.Join(d.Mnt, "snapshots/again", clone), "ls-tree", "-r", "HEAD"); got != tree {
			t.Errorf("%s in the snapshot: another tree", clone)
		}
	}
}

// cleanRepository has git check every object and compare every file.
func cleanRepository(t *testing.T, dir, tree string) {
	t.Helper()
	git(t, dir, "fsck", "--full", "--strict", "--no-dangling")
	if changed := git(t, dir, "status", "--porcelain"); changed != "" {
		t.Errorf("%s: git status:\n%s", dir, changed)
	}
	git(t, dir, "diff", "--no-ext-diff", "--quiet", "HEAD")
	if got := git(t, dir, "ls-tree", "-r", "HEAD"); tree != "" && got != tree {
		t.Errorf("%s has another tree", dir)
	}
}

func ignoreExist(err error) error {
	if os.IsExist(err) {
		return nil
	}
	return err
}
