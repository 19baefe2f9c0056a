#include "textflag.h"

// See spread_amd64.go for what these do. In all of them:
//   AX args   DI elements   SI base   CX bytes left   DX next of the lane   BX sorted
//   R8 args.at   R9 to R12 scratch
//   Z0 elements of the base   Z1 their keys   Z2 their differences
//   Z10 ones   Z11 all but the signs   Z12 0xff   Z16 to Z27 the frequent keys
//   K1 elements of one key   K2 those that are done

#define KEY16(keys, off) \
	VPCMPEQW  keys, Z1, K1; \
	MOVQ      off(R8), R9; \
	VPEXPANDW (R9), K1, Z2; \
	KMOVD     K1, R10; \
	POPCNTL   R10, R10; \
	LEAQ      (R9)(R10*2), R9; \
	MOVQ      R9, off(R8); \
	KORD      K1, K2, K2

#define KEY32(keys, off) \
	VPCMPEQD  keys, Z1, K1; \
	MOVQ      off(R8), R9; \
	VPEXPANDD (R9), K1, Z2; \
	KMOVW     K1, R10; \
	POPCNTL   R10, R10; \
	LEAQ      (R9)(R10*4), R9; \
	MOVQ      R9, off(R8); \
	KORW      K1, K2, K2

#define START16 \
	MOVQ args+0(FP), AX; \
	MOVQ 0(AX), DI; \
	MOVQ 8(AX), SI; \
	MOVQ 16(AX), BX; \
	MOVQ 24(AX), DX; \
	MOVQ 32(AX), CX; \
	LEAQ 40(AX), R8; \
	MOVL $1, R9; \
	VPBROADCASTW R9, Z10; \
	MOVL $0x7fff, R9; \
	VPBROADCASTW R9, Z11; \
	MOVL $0xff, R9; \
	VPBROADCASTW R9, Z12; \
	VPBROADCASTW 136(AX), Z16; \
	VPBROADCASTW 140(AX), Z17; \
	VPBROADCASTW 144(AX), Z18; \
	VPBROADCASTW 148(AX), Z19; \
	VPBROADCASTW 152(AX), Z20; \
	VPBROADCASTW 156(AX), Z21; \
	VPBROADCASTW 160(AX), Z22; \
	VPBROADCASTW 164(AX), Z23; \
	VPBROADCASTW 168(AX), Z24; \
	VPBROADCASTW 172(AX), Z25; \
	VPBROADCASTW 176(AX), Z26; \
	VPBROADCASTW 180(AX), Z27

#define START32 \
	MOVQ args+0(FP), AX; \
	MOVQ 0(AX), DI; \
	MOVQ 8(AX), SI; \
	MOVQ 16(AX), BX; \
	MOVQ 24(AX), DX; \
	MOVQ 32(AX), CX; \
	LEAQ 40(AX), R8; \
	MOVL $1, R9; \
	VPBROADCASTD R9, Z10; \
	MOVL $0x7fffffff, R9; \
	VPBROADCASTD R9, Z11; \
	MOVL $0xff, R9; \
	VPBROADCASTD R9, Z12; \
	VPBROADCASTD 136(AX), Z16; \
	VPBROADCASTD 140(AX), Z17; \
	VPBROADCASTD 144(AX), Z18; \
	VPBROADCASTD 148(AX), Z19; \
	VPBROADCASTD 152(AX), Z20; \
	VPBROADCASTD 156(AX), Z21; \
	VPBROADCASTD 160(AX), Z22; \
	VPBROADCASTD 164(AX), Z23; \
	VPBROADCASTD 168(AX), Z24; \
	VPBROADCASTD 172(AX), Z25; \
	VPBROADCASTD 176(AX), Z26; \
	VPBROADCASTD 180(AX), Z27

// func gather16AVX512(args *orderArgs)
TEXT ·gather16AVX512(SB), NOSPLIT, $64-8
	START16

loop:
	VMOVDQU64 (SI), Z0
	VPSRLW    $7, Z0, Z1
	VPANDQ    Z12, Z1, Z1
	VPXORQ    Z2, Z2, Z2
	KXORD     K2, K2, K2
	KEY16(Z16, 0)
	KEY16(Z17, 8)
	KEY16(Z18, 16)
	KEY16(Z19, 24)
	KEY16(Z20, 32)
	KEY16(Z21, 40)
	KEY16(Z22, 48)
	KEY16(Z23, 56)
	KEY16(Z24, 64)
	KEY16(Z25, 72)
	KEY16(Z26, 80)
	KEY16(Z27, 88)
	KMOVD     K2, R10
	NOTL      R10
	TESTL     R10, R10
	JZ        add

	// The others one by one.
	VMOVDQU64 Z2, 0(SP)

rare:
	TZCNTL  R10, R9
	BLSRL   R10, R10
	MOVWLZX (SI)(R9*2), R11
	SHRL    $7, R11
	ANDL    $0xff, R11
	MOVL    (DX)(R11*4), R12
	INCL    (DX)(R11*4)
	MOVWLZX (BX)(R12*2), R12
	MOVW    R12, 0(SP)(R9*2)
	TESTL   R10, R10
	JNZ     rare
	VMOVDQU64 0(SP), Z2

add:
	VPANDQ     Z10, Z2, Z3
	VPXORQ     Z4, Z4, Z4
	VPSUBW     Z3, Z4, Z3     // all ones where the difference is negative
	VPANDQ     Z11, Z2, Z4
	VPSRLW     $1, Z4, Z4
	VPXORQ     Z3, Z4, Z4
	VPADDW     Z0, Z4, Z4
	VPXORQ     Z0, Z2, Z2
	VMOVDQA64  Z11, Z5
	VPTERNLOGQ $0xca, Z2, Z4, Z5 // the sum, with the sign of the exclusive or
	VMOVDQU64  Z5, (DI)
	ADDQ       $64, SI
	ADDQ       $64, DI
	SUBQ       $64, CX
	JNZ        loop
	VZEROUPPER
	RET

// func gather32AVX512(args *orderArgs)
TEXT ·gather32AVX512(SB), NOSPLIT, $64-8
	START32

loop:
	VMOVDQU64 (SI), Z0
	VPSRLD    $23, Z0, Z1
	VPANDQ    Z12, Z1, Z1
	VPXORQ    Z2, Z2, Z2
	KXORW     K2, K2, K2
	KEY32(Z16, 0)
	KEY32(Z17, 8)
	KEY32(Z18, 16)
	KEY32(Z19, 24)
	KEY32(Z20, 32)
	KEY32(Z21, 40)
	KEY32(Z22, 48)
	KEY32(Z23, 56)
	KEY32(Z24, 64)
	KEY32(Z25, 72)
	KEY32(Z26, 80)
	KEY32(Z27, 88)
	KMOVW     K2, R10
	XORL      $0xffff, R10
	JZ        add

	// The others one by one.
	VMOVDQU64 Z2, 0(SP)

rare:
	TZCNTL  R10, R9
	BLSRL   R10, R10
	MOVL    (SI)(R9*4), R11
	SHRL    $23, R11
	ANDL    $0xff, R11
	MOVL    (DX)(R11*4), R12
	INCL    (DX)(R11*4)
	MOVL    (BX)(R12*4), R12
	MOVL    R12, 0(SP)(R9*4)
	TESTL   R10, R10
	JNZ     rare
	VMOVDQU64 0(SP), Z2

add:
	VPANDQ     Z10, Z2, Z3
	VPXORQ     Z4, Z4, Z4
	VPSUBD     Z3, Z4, Z3     // all ones where the difference is negative
	VPANDQ     Z11, Z2, Z4
	VPSRLD     $1, Z4, Z4
	VPXORQ     Z3, Z4, Z4
	VPADDD     Z0, Z4, Z4
	VPXORQ     Z0, Z2, Z2
	VMOVDQA64  Z11, Z5
	VPTERNLOGQ $0xca, Z2, Z4, Z5 // the sum, with the sign of the exclusive or
	VMOVDQU64  Z5, (DI)
	ADDQ       $64, SI
	ADDQ       $64, DI
	SUBQ       $64, CX
	JNZ        loop
	VZEROUPPER
	RET

#define SQUEEZE16(keys, off) \
	VPCMPEQW    keys, Z1, K1; \
	MOVQ        off(R8), R9; \
	VPCOMPRESSW Z2, K1, Z3; \
	KMOVD       K1, R10; \
	POPCNTL     R10, R10; \
	BZHIL       R10, R13, R11; \
	KMOVD       R11, K3; \
	VMOVDQU16   Z3, K3, (R9); \
	LEAQ        (R9)(R10*2), R9; \
	MOVQ        R9, off(R8); \
	KORD        K1, K2, K2

// func deal16AVX512(args *orderArgs)
TEXT ·deal16AVX512(SB), NOSPLIT, $64-8
	START16
	MOVL $-1, R13

loop:
	VMOVDQU64  (SI), Z0
	VMOVDQU64  (DI), Z4
	VPSRLW     $7, Z0, Z1
	VPANDQ     Z12, Z1, Z1
	VPSUBW     Z0, Z4, Z2
	VPXORQ     Z0, Z4, Z4
	VPSLLW     $1, Z2, Z2
	VPSRAW     $15, Z2, Z3 // all ones where the difference is negative
	VPXORQ     Z3, Z2, Z2
	VMOVDQA64  Z11, Z5
	VPTERNLOGQ $0xca, Z4, Z2, Z5 // with the sign of the exclusive or
	VMOVDQA64  Z5, Z2
	KXORD      K2, K2, K2
	SQUEEZE16(Z16, 0)
	SQUEEZE16(Z17, 8)
	SQUEEZE16(Z18, 16)
	SQUEEZE16(Z19, 24)
	SQUEEZE16(Z20, 32)
	SQUEEZE16(Z21, 40)
	SQUEEZE16(Z22, 48)
	SQUEEZE16(Z23, 56)
	SQUEEZE16(Z24, 64)
	SQUEEZE16(Z25, 72)
	SQUEEZE16(Z26, 80)
	SQUEEZE16(Z27, 88)
	KMOVD      K2, R10
	NOTL       R10
	TESTL      R10, R10
	JZ         next

	// The others one by one.
	VMOVDQU64 Z2, 0(SP)

rare:
	TZCNTL  R10, R9
	BLSRL   R10, R10
	MOVWLZX (SI)(R9*2), R11
	SHRL    $7, R11
	ANDL    $0xff, R11
	MOVL    (DX)(R11*4), R12
	INCL    (DX)(R11*4)
	MOVWLZX 0(SP)(R9*2), R11
	MOVW    R11, (BX)(R12*2)
	TESTL   R10, R10
	JNZ     rare

next:
	ADDQ $64, SI
	ADDQ $64, DI
	SUBQ $64, CX
	JNZ  loop
	VZEROUPPER
	RET

#define SQUEEZE32(keys, off) \
	VPCMPEQD    keys, Z1, K1; \
	MOVQ        off(R8), R9; \
	VPCOMPRESSD Z2, K1, Z3; \
	KMOVW       K1, R10; \
	POPCNTL     R10, R10; \
	BZHIL       R10, R13, R11; \
	KMOVW       R11, K3; \
	VMOVDQU32   Z3, K3, (R9); \
	LEAQ        (R9)(R10*4), R9; \
	MOVQ        R9, off(R8); \
	KORW        K1, K2, K2

// func deal32AVX512(args *orderArgs)
TEXT ·deal32AVX512(SB), NOSPLIT, $64-8
	START32
	MOVL $-1, R13

loop:
	VMOVDQU64  (SI), Z0
	VMOVDQU64  (DI), Z4
	VPSRLD     $23, Z0, Z1
	VPANDQ     Z12, Z1, Z1
	VPSUBD     Z0, Z4, Z2
	VPXORQ     Z0, Z4, Z4
	VPSLLD     $1, Z2, Z2
	VPSRAD     $31, Z2, Z3 // all ones where the difference is negative
	VPXORQ     Z3, Z2, Z2
	VMOVDQA64  Z11, Z5
	VPTERNLOGQ $0xca, Z4, Z2, Z5 // with the sign of the exclusive or
	VMOVDQA64  Z5, Z2
	KXORW      K2, K2, K2
	SQUEEZE32(Z16, 0)
	SQUEEZE32(Z17, 8)
	SQUEEZE32(Z18, 16)
	SQUEEZE32(Z19, 24)
	SQUEEZE32(Z20, 32)
	SQUEEZE32(Z21, 40)
	SQUEEZE32(Z22, 48)
	SQUEEZE32(Z23, 56)
	SQUEEZE32(Z24, 64)
	SQUEEZE32(Z25, 72)
	SQUEEZE32(Z26, 80)
	SQUEEZE32(Z27, 88)
	KMOVW      K2, R10
	XORL       $0xffff, R10
	JZ         next

	// The others one by one.
	VMOVDQU64 Z2, 0(SP)

rare:
	TZCNTL  R10, R9
	BLSRL   R10, R10
	MOVL (SI)(R9*4), R11
	SHRL    $23, R11
	ANDL    $0xff, R11
	MOVL    (DX)(R11*4), R12
	INCL    (DX)(R11*4)
	MOVL 0(SP)(R9*4), R11
	MOVL    R11, (BX)(R12*4)
	TESTL   R10, R10
	JNZ     rare

next:
	ADDQ $64, SI
	ADDQ $64, DI
	SUBQ $64, CX
	JNZ  loop
	VZEROUPPER
	RET
