#include "textflag.h"

// Every function here is a leaf without a frame, so that a fault (SIGBUS on a
// bad page) unwinds into the Go caller like one in Go code. n counts lines of
// 64 bytes; zero lines are allowed. Callers keep n small: none of these loops
// can be preempted.

// func cpuid(leaf, subleaf uint32) (eax, ebx, ecx, edx uint32)
TEXT ·cpuid(SB), NOSPLIT, $0-24
	MOVL leaf+0(FP), AX
	MOVL subleaf+4(FP), CX
	CPUID
	MOVL AX, eax+8(FP)
	MOVL BX, ebx+12(FP)
	MOVL CX, ecx+16(FP)
	MOVL DX, edx+20(FP)
	RET

// func sfence()
TEXT ·sfence(SB), NOSPLIT, $0-0
	SFENCE
	RET

// func clwbLines(p unsafe.Pointer, n uintptr)
TEXT ·clwbLines(SB), NOSPLIT, $0-16
	MOVQ p+0(FP), DI
	MOVQ n+8(FP), CX
	TESTQ CX, CX
	JZ   done

loop:
	CLWB (DI)
	ADDQ $64, DI
	DECQ CX
	JNZ  loop

done:
	RET

// func clflushoptLines(p unsafe.Pointer, n uintptr)
TEXT ·clflushoptLines(SB), NOSPLIT, $0-16
	MOVQ p+0(FP), DI
	MOVQ n+8(FP), CX
	TESTQ CX, CX
	JZ   done

loop:
	CLFLUSHOPT (DI)
	ADDQ $64, DI
	DECQ CX
	JNZ  loop

done:
	RET

// func clflushLines(p unsafe.Pointer, n uintptr)
TEXT ·clflushLines(SB), NOSPLIT, $0-16
	MOVQ p+0(FP), DI
	MOVQ n+8(FP), CX
	TESTQ CX, CX
	JZ   done

loop:
	CLFLUSH (DI)
	ADDQ $64, DI
	DECQ CX
	JNZ  loop

done:
	RET

// func ntCopyAVX(dst, src unsafe.Pointer, n uintptr)
// dst is line-aligned, src need not be. Four lines a round, then one.
TEXT ·ntCopyAVX(SB), NOSPLIT, $0-24
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), CX
	SUBQ $4, CX
	JB   few

four:
	VMOVDQU  (SI), Y0
	VMOVDQU  32(SI), Y1
	VMOVDQU  64(SI), Y2
	VMOVDQU  96(SI), Y3
	VMOVDQU  128(SI), Y4
	VMOVDQU  160(SI), Y5
	VMOVDQU  192(SI), Y6
	VMOVDQU  224(SI), Y7
	VMOVNTDQ Y0, (DI)
	VMOVNTDQ Y1, 32(DI)
	VMOVNTDQ Y2, 64(DI)
	VMOVNTDQ Y3, 96(DI)
	VMOVNTDQ Y4, 128(DI)
	VMOVNTDQ Y5, 160(DI)
	VMOVNTDQ Y6, 192(DI)
	VMOVNTDQ Y7, 224(DI)
	ADDQ     $256, SI
	ADDQ     $256, DI
	SUBQ     $4, CX
	JAE      four

few:
	ADDQ $4, CX
	JZ   done

one:
	VMOVDQU  (SI), Y0
	VMOVDQU  32(SI), Y1
	VMOVNTDQ Y0, (DI)
	VMOVNTDQ Y1, 32(DI)
	ADDQ     $64, SI
	ADDQ     $64, DI
	DECQ     CX
	JNZ      one

done:
	VZEROUPPER
	RET

// func ntCopySSE2(dst, src unsafe.Pointer, n uintptr)
TEXT ·ntCopySSE2(SB), NOSPLIT, $0-24
	MOVQ  dst+0(FP), DI
	MOVQ  src+8(FP), SI
	MOVQ  n+16(FP), CX
	TESTQ CX, CX
	JZ    done

loop:
	MOVOU  (SI), X0
	MOVOU  16(SI), X1
	MOVOU  32(SI), X2
	MOVOU  48(SI), X3
	MOVNTO X0, (DI)
	MOVNTO X1, 16(DI)
	MOVNTO X2, 32(DI)
	MOVNTO X3, 48(DI)
	ADDQ   $64, SI
	ADDQ   $64, DI
	DECQ   CX
	JNZ    loop

done:
	RET

// func ntZeroAVX(dst unsafe.Pointer, n uintptr)
TEXT ·ntZeroAVX(SB), NOSPLIT, $0-16
	MOVQ  dst+0(FP), DI
	MOVQ  n+8(FP), CX
	VPXOR X0, X0, X0
	SUBQ  $4, CX
	JB    few

four:
	VMOVNTDQ Y0, (DI)
	VMOVNTDQ Y0, 32(DI)
	VMOVNTDQ Y0, 64(DI)
	VMOVNTDQ Y0, 96(DI)
	VMOVNTDQ Y0, 128(DI)
	VMOVNTDQ Y0, 160(DI)
	VMOVNTDQ Y0, 192(DI)
	VMOVNTDQ Y0, 224(DI)
	ADDQ     $256, DI
	SUBQ     $4, CX
	JAE      four

few:
	ADDQ $4, CX
	JZ   done

one:
	VMOVNTDQ Y0, (DI)
	VMOVNTDQ Y0, 32(DI)
	ADDQ     $64, DI
	DECQ     CX
	JNZ      one

done:
	VZEROUPPER
	RET

// func ntZeroSSE2(dst unsafe.Pointer, n uintptr)
TEXT ·ntZeroSSE2(SB), NOSPLIT, $0-16
	MOVQ  dst+0(FP), DI
	MOVQ  n+8(FP), CX
	XORPS X0, X0
	TESTQ CX, CX
	JZ    done

loop:
	MOVNTO X0, (DI)
	MOVNTO X0, 16(DI)
	MOVNTO X0, 32(DI)
	MOVNTO X0, 48(DI)
	ADDQ   $64, DI
	DECQ   CX
	JNZ    loop

done:
	RET
