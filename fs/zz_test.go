package fs
import ("testing";"os/exec";"os")
func TestZZ(t *testing.T){
	for range 3 {
		m:=newMount(t)
		out,err:=exec.Command("/tmp/cr",m.dir).CombinedOutput()
		t.Logf("%s %v",out,err)
	}
	d:=t.TempDir()
	out,_:=exec.Command("/tmp/cr",d).CombinedOutput()
	t.Logf("native %s",out)
	_ = os.Args
}
