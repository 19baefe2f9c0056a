#include "textflag.h"

// See zip_amd64.go for what these do. In all of them:
//   DI where to   SI where from   CX elements left   Z3 by how many bits to rotate
//   DX, R8 and R9 the planes behind the first

// func merge16AVX512(dst, planes unsafe.Pointer, n, done, turn uintptr)
TEXT ·merge16AVX512(SB), NOSPLIT, $0-40
	MOVQ dst+0(FP), DI
	MOVQ planes+8(FP), SI
	MOVQ n+16(FP), DX
	MOVQ done+24(FP), CX
	MOVQ turn+32(FP), AX
	VPBROADCASTW AX, Z3
	ADDQ SI, DX
merge16:
	VPMOVZXBW (SI), Z0
	VPMOVZXBW (DX), Z1
	VPSLLW    $8, Z1, Z1
	VPORQ     Z0, Z1, Z1
	VPSHRDVW  Z3, Z1, Z1
	VMOVDQU64 Z1, (DI)
	ADDQ $32, SI
	ADDQ $32, DX
	ADDQ $64, DI
	SUBQ $32, CX
	JNZ  merge16
	VZEROUPPER
	RET

// func merge32AVX512(dst, planes unsafe.Pointer, n, done, turn uintptr)
TEXT ·merge32AVX512(SB), NOSPLIT, $0-40
	MOVQ dst+0(FP), DI
	MOVQ planes+8(FP), SI
	MOVQ n+16(FP), R9
	MOVQ done+24(FP), CX
	MOVQ turn+32(FP), AX
	VPBROADCASTD AX, Z3
	LEAQ (SI)(R9*1), DX
	LEAQ (SI)(R9*2), R8
	LEAQ (DX)(R9*2), R9
merge32:
	VPMOVZXBD  (SI), Z0
	VPMOVZXBD  (DX), Z1
	VPMOVZXBD  (R8), Z2
	VPMOVZXBD  (R9), Z4
	VPSLLD     $8, Z1, Z1
	VPSLLD     $16, Z2, Z2
	VPSLLD     $24, Z4, Z4
	VPORD      Z0, Z1, Z1
	VPORD      Z2, Z4, Z4
	VPORD      Z1, Z4, Z4
	VPRORVD    Z3, Z4, Z4
	VMOVDQU64  Z4, (DI)
	ADDQ $16, SI
	ADDQ $16, DX
	ADDQ $16, R8
	ADDQ $16, R9
	ADDQ $64, DI
	SUBQ $16, CX
	JNZ  merge32
	VZEROUPPER
	RET

// func split16AVX512(planes, src unsafe.Pointer, n, done, turn uintptr)
TEXT ·split16AVX512(SB), NOSPLIT, $0-40
	MOVQ planes+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), DX
	MOVQ done+24(FP), CX
	MOVQ turn+32(FP), AX
	VPBROADCASTW AX, Z3
	ADDQ DI, DX
split16:
	VMOVDQU64 (SI), Z0
	VPSHLDVW  Z3, Z0, Z0
	VPMOVWB   Z0, (DI)
	VPSRLW    $8, Z0, Z0
	VPMOVWB   Z0, (DX)
	ADDQ $64, SI
	ADDQ $32, DI
	ADDQ $32, DX
	SUBQ $32, CX
	JNZ  split16
	VZEROUPPER
	RET

// func split32AVX512(planes, src unsafe.Pointer, n, done, turn uintptr)
TEXT ·split32AVX512(SB), NOSPLIT, $0-40
	MOVQ planes+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), R9
	MOVQ done+24(FP), CX
	MOVQ turn+32(FP), AX
	VPBROADCASTD AX, Z3
	LEAQ (DI)(R9*1), DX
	LEAQ (DI)(R9*2), R8
	LEAQ (DX)(R9*2), R9
split32:
	VMOVDQU64 (SI), Z0
	VPROLVD   Z3, Z0, Z0
	VPMOVDB   Z0, (DI)
	VPSRLD    $8, Z0, Z1
	VPMOVDB   Z1, (DX)
	VPSRLD    $16, Z0, Z2
	VPMOVDB   Z2, (R8)
	VPSRLD    $24, Z0, Z4
	VPMOVDB   Z4, (R9)
	ADDQ $64, SI
	ADDQ $16, DI
	ADDQ $16, DX
	ADDQ $16, R8
	ADDQ $16, R9
	SUBQ $16, CX
	JNZ  split32
	VZEROUPPER
	RET
