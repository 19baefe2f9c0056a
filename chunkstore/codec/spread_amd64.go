package codec

import (
	"unsafe"

	"golang.org/x/sys/cpu"
)

// With AVX-512 the elements of one key in 64 bytes of the base get their
// differences by one instruction, which spreads what stands together in the
// order over where the key is; another is its inverse. That is done for the most
// frequent keys, of which weights have few; the rest goes one by one. It takes
// half as long as deal16 and its like, or less. They go on where this ends, and
// it is held against them.

// canSpread says whether the machine has the instructions.
var canSpread = cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512VBMI2 &&
	cpu.X86.HasBMI1 && cpu.X86.HasBMI2 && cpu.X86.HasPOPCNT

// frequentKeys is how many keys are spread; each costs the same whether it
// occurs or not.
const frequentKeys = 12

// orderArgs is what the assembler is given; it knows the offsets. There are bytes
// of elements and of the base, a multiple of 64 and not 0. at has the addresses in
// sorted of the next elements of the keys, next the places of all others'.
type orderArgs struct {
	elements, base, sorted unsafe.Pointer
	next                   *[256]uint32
	bytes                  uintptr
	at                     [frequentKeys]uintptr
	keys                   [frequentKeys]uint32 // what is above 255 is none
}

// gather16AVX512 fills the elements: see gatherAdd.
//
//go:noescape
func gather16AVX512(args *orderArgs)

//go:noescape
func gather32AVX512(args *orderArgs)

// deal16AVX512 fills what is sorted: see subtractDeal.
//
//go:noescape
func deal16AVX512(args *orderArgs)

//go:noescape
func deal32AVX512(args *orderArgs)

// spread does gatherAdd for the start of each lane, and says for how many
// elements: 0 where it does not pay.
func spread[W word](dst []byte, sorted []W, base []byte, o *order) int {
	if width[W]() == 2 {
		return byLane(gather16AVX512, dst, sorted, base, o)
	}
	return byLane(gather32AVX512, dst, sorted, base, o)
}

// squeeze is the same for subtractDeal.
func squeeze[W word](sorted []W, plain, base []byte, o *order) int {
	if width[W]() == 2 {
		return byLane(deal16AVX512, plain, sorted, base, o)
	}
	return byLane(deal32AVX512, plain, sorted, base, o)
}

func byLane[W word](fn func(*orderArgs), elements []byte, sorted []W, base []byte, o *order) int {
	w := width[W]()
	n := len(base) / w
	lane := n / orderLanes
	done := lane &^ (64/w - 1)
	var args orderArgs
	if !canSpread || done == 0 || !o.frequent(&args.keys, n) {
		return 0
	}
	elements, sorted = elements[:n*w], sorted[:n]
	args.sorted, args.bytes = unsafe.Pointer(unsafe.SliceData(sorted)), uintptr(done*w)
	for l := range orderLanes {
		next := &o.next[l]
		args.elements, args.base, args.next = unsafe.Pointer(&elements[l*lane*w]), unsafe.Pointer(&base[l*lane*w]), next
		for i, k := range args.keys {
			args.at[i] = uintptr(args.sorted) + uintptr(w)*uintptr(next[uint8(k)])
		}
		fn(&args)
		for i, k := range args.keys {
			if k < 256 {
				next[k] = uint32((args.at[i] - uintptr(args.sorted)) / uintptr(w))
			}
		}
	}
	return done
}

// frequent fills keys with those that occur most, and says whether they are
// nearly all.
func (o *order) frequent(keys *[frequentKeys]uint32, n int) bool {
	var counts [frequentKeys]uint32
	for i := range keys {
		keys[i] = 256
	}
	sum := 0
	for k := range 256 {
		c := o.count[0][k] + o.count[1][k] + o.count[2][k] + o.count[3][k]
		i := frequentKeys - 1
		if c <= counts[i] {
			continue
		}
		sum += int(c) - int(counts[i])
		for ; i > 0 && counts[i-1] < c; i-- {
			counts[i], keys[i] = counts[i-1], keys[i-1]
		}
		counts[i], keys[i] = c, uint32(k)
	}
	return sum >= n-n/32
}
