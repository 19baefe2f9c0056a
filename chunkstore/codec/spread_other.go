//go:build !amd64

package codec

func spread[W word]([]byte, []W, []byte, *order) int { return 0 }

func squeeze[W word]([]W, []byte, []byte, *order) int { return 0 }

func mergeVectors[W word](_, _ []byte, _ uintptr) int { return 0 }

func splitVectors[W word](_, _ []byte, _ uintptr) int { return 0 }
