#include "textflag.h"

// Leaves without a frame, so that a fault unwinds into the Go caller. n is a
// count of bytes, a multiple of stride; zero is allowed.

// func dsb()
TEXT ·dsb(SB), NOSPLIT, $0-0
	DSB $15 // SY: full system, loads and stores
	RET

// func ctrEL0() uint64
TEXT ·ctrEL0(SB), NOSPLIT, $0-8
	MRS  CTR_EL0, R0
	MOVD R0, ret+0(FP)
	RET

// func cvapLines(p unsafe.Pointer, n, stride uintptr)
TEXT ·cvapLines(SB), NOSPLIT, $0-24
	MOVD p+0(FP), R0
	MOVD n+8(FP), R1
	MOVD stride+16(FP), R2
	ADD  R0, R1

loop:
	CMP R1, R0
	BHS done
	DC  CVAP, R0
	ADD R2, R0
	B   loop

done:
	RET

// func cvacLines(p unsafe.Pointer, n, stride uintptr)
TEXT ·cvacLines(SB), NOSPLIT, $0-24
	MOVD p+0(FP), R0
	MOVD n+8(FP), R1
	MOVD stride+16(FP), R2
	ADD  R0, R1

loop:
	CMP R1, R0
	BHS done
	DC  CVAC, R0
	ADD R2, R0
	B   loop

done:
	RET
