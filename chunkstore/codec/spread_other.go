//go:build !amd64

package codec

func spread[W word]([]byte, []W, []byte, *order) int { return 0 }

func squeeze[W word]([]W, []byte, []byte, *order) int { return 0 }
