// Crossing between ring 0 and ring 3. `enter_user` looks like a function call to Rust: it returns when the process
// makes a system call, is interrupted, or faults, and the context then says which. Interrupts are off in the kernel
// except inside `halt`. Every vector has a stack of its own through the TSS: compiled code uses the red zone, so
// nothing may push onto an interrupted stack.

.macro RESTORE                  // all but rsp, rcx and r11; rdi last
    movq {RAX}(%rdi), %rax
    movq {RBX}(%rdi), %rbx
    movq {RDX}(%rdi), %rdx
    movq {RSI}(%rdi), %rsi
    movq {RBP}(%rdi), %rbp
    movq {R8}(%rdi), %r8
    movq {R9}(%rdi), %r9
    movq {R10}(%rdi), %r10
    movq {R12}(%rdi), %r12
    movq {R13}(%rdi), %r13
    movq {R14}(%rdi), %r14
    movq {R15}(%rdi), %r15
    movq {RDI}(%rdi), %rdi
.endm

.text
// enter_user(context: *mut Context)
.global enter_user
enter_user:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, %gs:{CORE_STACK}
    movq %rdi, %gs:{CORE_CONTEXT}
    cmpq ${BY_SYSCALL}, {BY}(%rdi)
    je 1f

    fxrstor64 {FX}(%rdi)
    pushq ${USER_DATA}
    pushq {RSP}(%rdi)
    pushq {RFLAGS}(%rdi)
    pushq ${USER_CODE}
    pushq {RIP}(%rdi)
    movq {RCX}(%rdi), %rcx
    movq {R11}(%rdi), %r11
    RESTORE
    swapgs
    iretq

1:  // Vector registers are the caller's to save across a system call, but must not carry what the kernel left in them.
    pxor %xmm0, %xmm0
    pxor %xmm1, %xmm1
    pxor %xmm2, %xmm2
    pxor %xmm3, %xmm3
    pxor %xmm4, %xmm4
    pxor %xmm5, %xmm5
    pxor %xmm6, %xmm6
    pxor %xmm7, %xmm7
    pxor %xmm8, %xmm8
    pxor %xmm9, %xmm9
    pxor %xmm10, %xmm10
    pxor %xmm11, %xmm11
    pxor %xmm12, %xmm12
    pxor %xmm13, %xmm13
    pxor %xmm14, %xmm14
    pxor %xmm15, %xmm15
    ldmxcsr {MXCSR}(%rdi)
    movq {RIP}(%rdi), %rcx
    movq {RFLAGS}(%rdi), %r11
    movq {RSP}(%rdi), %rsp      // interrupts are off, and nothing below can fault
    RESTORE
    swapgs
    sysretq

// IA32_LSTAR. SFMASK has cleared IF, DF, TF and AC.
.global syscall_entry
syscall_entry:
    swapgs
    movq %rsp, %gs:{CORE_SCRATCH}
    movq %gs:{CORE_CONTEXT}, %rsp
    movq %rax, {RAX}(%rsp)
    movq %rcx, {RIP}(%rsp)
    movq %r11, {RFLAGS}(%rsp)
    movq ${BY_SYSCALL}, {BY}(%rsp)
    movq %gs:{CORE_SCRATCH}, %rax
    movq %rax, {RSP}(%rsp)
    movq %rsp, %rax
    stmxcsr {MXCSR}(%rax)
save_and_return:                // rax: the context; its own value is saved
    movq %rbx, {RBX}(%rax)
    movq %rdx, {RDX}(%rax)
    movq %rsi, {RSI}(%rax)
    movq %rdi, {RDI}(%rax)
    movq %rbp, {RBP}(%rax)
    movq %r8, {R8}(%rax)
    movq %r9, {R9}(%rax)
    movq %r10, {R10}(%rax)
    movq %r12, {R12}(%rax)
    movq %r13, {R13}(%rax)
    movq %r14, {R14}(%rax)
    movq %r15, {R15}(%rax)
    movq %gs:{CORE_STACK}, %rsp
    ldmxcsr kernel_mxcsr(%rip)
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret

// One stub of 16 bytes for each vector. They leave vector and error code (0 where the CPU pushes none) above the
// CPU's frame.
.balign 16
.global interrupt_stubs
interrupt_stubs:
.set vector, 0
.rept 256
    .balign 16
    .if ((1 << (vector & 31)) & 0x60227d00) && (vector < 32)    // 8, 10 to 14, 17, 21, 29, 30
    .else
    pushq $0
    .endif
    .byte 0x6a, vector          // push imm8, sign-extended; undone below
    jmp interrupt_common
    .set vector, vector + 1
.endr

interrupt_common:
    andq $0xff, (%rsp)
    testb $3, 24(%rsp)          // the interrupted code segment's privilege
    jz 1f
    swapgs
    movq %rax, %gs:{CORE_SCRATCH}
    movq %gs:{CORE_CONTEXT}, %rax
    fxsave64 {FX}(%rax)
    movq ${BY_INTERRUPT}, {BY}(%rax)
    popq {VECTOR}(%rax)
    popq {ERROR}(%rax)
    popq {RIP}(%rax)
    addq $8, %rsp
    popq {RFLAGS}(%rax)
    popq {RSP}(%rax)
    movq %rcx, {RCX}(%rax)
    movq %r11, {R11}(%rax)
    movq %gs:{CORE_SCRATCH}, %rcx
    movq %rcx, {RAX}(%rax)
    cld
    pushfq                      // AC, bit 18, is still as the process had it: with it, SMAP would not hold
    andl $~0x40000, (%rsp)
    popfq
    jmp save_and_return

1:  // In the kernel: inside `halt`, whose caller expects its registers to be gone; or an exception, which does not
    // come back.
    cld
    popq %rdi
    popq %rsi
    movq %rsp, %rdx             // the CPU's frame: rip, cs, rflags, rsp, ss
    pushq %rbp                  // 40 bytes of frame on an aligned stack: one more word aligns the call
    call kernel_interrupt
    popq %rbp
    iretq

// halt(): interrupts on, wait for one, interrupts off. `sti` takes effect after `hlt` began, so a wake-up cannot slip
// between.
.global halt
halt:
    sti
    hlt
    cli
    ret

.section .rodata.kernel_mxcsr, "a", @progbits
.balign 4
kernel_mxcsr:
    .long 0x1f80
.text
