package codec

import "unsafe"

// With AVX-512 planes are merged and split 64 bytes of elements at a time, which
// takes a fifth of the time that it takes eight elements at a time. The elements
// may be rotated on the way. Whole vectors are done; the rest is left.

//go:noescape
func merge16AVX512(dst, planes unsafe.Pointer, n, done, turn uintptr)

//go:noescape
func merge32AVX512(dst, planes unsafe.Pointer, n, done, turn uintptr)

//go:noescape
func split16AVX512(planes, src unsafe.Pointer, n, done, turn uintptr)

//go:noescape
func split32AVX512(planes, src unsafe.Pointer, n, done, turn uintptr)

// mergeVectors fills dst with elements of planes, rotated right by turn bits, and
// says how many it did.
func mergeVectors[W word](dst, planes []byte, turn uintptr) int {
	if width[W]() == 2 {
		return vectors(merge16AVX512, 2, dst, planes, turn)
	}
	return vectors(merge32AVX512, 4, dst, planes, turn)
}

// splitVectors is the inverse, by rotating left: it fills planes.
func splitVectors[W word](planes, src []byte, turn uintptr) int {
	if width[W]() == 2 {
		return vectors(split16AVX512, 2, planes, src, turn)
	}
	return vectors(split32AVX512, 4, planes, src, turn)
}

func vectors(fn func(to, from unsafe.Pointer, n, done, turn uintptr), w int, to, from []byte, turn uintptr) int {
	n := len(to) / w
	done := n &^ (64/w - 1)
	if !canSpread || done == 0 {
		return 0
	}
	to, from = to[:n*w], from[:n*w]
	fn(unsafe.Pointer(&to[0]), unsafe.Pointer(&from[0]), uintptr(n), uintptr(done), turn)
	return done
}
