package inspect

import (
	"maps"
	"path"
	"slices"
	"strings"
)

// model.safetensors.index.json and its like say which file holds each tensor:
// {"weight_map": {"layer.0.weight": "model-00001-of-00002.safetensors", ...}}.

func isIndex(name string) bool {
	return strings.HasSuffix(name, ".json") &&
		(strings.Contains(name, ".safetensors.index.") || strings.Contains(name, ".bin.index."))
}

// checkIndex: all shards are there, and in those of safetensors the tensors.
func checkIndex(c *checker, s span) error {
	shards, err := readIndex(s)
	if err != nil {
		return err
	}
	for _, shard := range slices.Sorted(maps.Keys(shards)) {
		if err := c.checkShard(shard, shards[shard]); err != nil {
			return err
		}
	}
	return nil
}

// readIndex gives the tensors by shard.
func readIndex(s span) (map[string][]string, error) {
	shards := map[string][]string{}
	found := false
	tensors, held := 0, 0
	j := jsonReader{in: newStream(s), keep: true}
	t, err := j.next()
	if err != nil {
		return nil, err
	}
	err = j.object(t, func(key string) error {
		t, err := j.next()
		if err != nil {
			return err
		}
		if key != "weight_map" {
			return j.skip(t)
		}
		found = true
		return j.object(t, func(name string) error {
			t, err := j.next()
			if err != nil {
				return err
			}
			if t.kind != jsonString {
				return flawf("index: %.60q is mapped to no file", name)
			}
			tensors, held = tensors+1, held+len(name)+len(t.text)
			if tensors > maxTensors || held > maxNames {
				return errTooLarge
			}
			shards[t.text] = append(shards[t.text], name)
			return nil
		})
	})
	if err == nil {
		_, err = j.next()
	}
	if err == nil && !found {
		err = flaw("index: it has no weight_map")
	}
	return shards, err
}

// checkShard: the shard is there and has the tensors. What else may be wrong
// with it is found when it is looked at itself.
func (c *checker) checkShard(shard string, tensors []string) error {
	file, ok := c.beside(shard)
	if !ok {
		return flawf("index: %.60q is no name of a file beside it", shard)
	}
	e, ok, err := c.lookup(file)
	if err != nil {
		return err
	}
	if !ok {
		c.problem(file, "missing, but "+path.Base(c.path)+" names it")
		return nil
	}
	if e.Kind != KindFile || !strings.HasSuffix(file, ".safetensors") {
		return nil
	}
	s, closing, err := c.open(file)
	if err != nil {
		return err
	}
	defer closing()
	there, _, err := readSafetensors(s)
	if err != nil {
		return onlyReading(err)
	}
	for _, name := range tensors {
		if !hasTensor(there, name) {
			c.problem(file, "lacks the tensor "+clip(name)+", which "+path.Base(c.path)+" says it has")
			return nil
		}
	}
	return nil
}
