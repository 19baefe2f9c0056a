package codec

// Phase says where in a chunk its elements are likely to begin, as the least
// offset at which it may lie in a file, for whoever does not know that: of the
// four that there are for floats of up to four bytes, the one with which a piece
// of the chunk takes least.
func (c *Coder) Phase(plain []byte) int64 {
	if len(plain) > window {
		at := (len(plain) - window) / 2 &^ 7
		plain = plain[at : at+window]
	}
	best, least := int64(0), -1
	var out []byte
	for phase := range int64(4) {
		out, _, _ = c.Encode(out[:0], plain, nil, Hint{Offset: phase})
		if least < 0 || len(out) < least {
			best, least = phase, len(out)
		}
	}
	return best
}
