// From the PVH entry (32-bit, paging off: Xen's x86/HVM direct boot ABI) or the start-up IPI (16-bit) to 64-bit code
// in the high half. The first tables map the low 4 GiB three times: where they are, at PHYS_OFFSET, and (2 GiB of
// them) at KERNEL_BASE.

.section .note.Xen, "a", @note
.balign 4
    .long 4, 8, 18              // sizes of name and value; XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_start

.section .boot.text, "ax", @progbits
.code32
.global pvh_start
pvh_start:
    cli
    cld
    movl %ebx, boot_start_info

    xorl %ecx, %ecx             // 2048 pages of 2 MiB
    movl $0x83, %eax            // present, writable, large
1:  movl %eax, boot_pd(, %ecx, 8)
    movl $0, boot_pd + 4(, %ecx, 8)
    addl $0x200000, %eax
    incl %ecx
    cmpl $2048, %ecx
    jne 1b

    movl $(boot_pd + 0x0003), boot_pdpt
    movl $(boot_pd + 0x1003), boot_pdpt + 8
    movl $(boot_pd + 0x2003), boot_pdpt + 16
    movl $(boot_pd + 0x3003), boot_pdpt + 24
    movl $(boot_pd + 0x0003), boot_pdpt_high + 510 * 8
    movl $(boot_pd + 0x1003), boot_pdpt_high + 511 * 8
    movl $(boot_pdpt + 3), boot_pml4
    movl $(boot_pdpt + 3), boot_pml4 + 256 * 8
    movl $(boot_pdpt_high + 3), boot_pml4 + 511 * 8

    lgdt boot_gdt_pointer
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    xorl %edi, %edi             // 0: the core that boots the others

// Common to all cores; %edi says which (0, or 1 for an application processor).
enter_long_mode:
    movl $0x620, %eax           // PAE, OSFXSR, OSXMMEXCPT: compiled code uses SSE from its first line
    movl %eax, %cr4
    movl $boot_pml4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx      // IA32_EFER: SCE, LME, NXE
    rdmsr
    orl $0x901, %eax
    wrmsr
    movl $0x80010033, %eax      // PG, WP, NE, ET, MP, PE; EM and TS clear
    movl %eax, %cr0
    ljmpl $0x18, $1f
.code64
1:  testl %edi, %edi
    jnz 2f
    movl boot_start_info, %edi
    movabsq $boot_stack_top, %rsp
    movabsq $kernel_start, %rax
    call *%rax
2:  movabsq $ap_high, %rax
    jmp *%rax

// In the high half, where the code stays mapped when the kernel's tables, which map the core's stack, replace the
// boot tables.
.text
ap_high:
    movq {AP_TABLES}(%rip), %rax
    movq %rax, %cr3
    movq {AP_STACK_TOP}(%rip), %rsp
    call ap_start
    ud2

// Copied to TRAMPOLINE (below 1 MiB), where a start-up IPI sends the other cores.
.section .rodata.trampoline, "a", @progbits
.global ap_trampoline
.global ap_trampoline_end
.code16
ap_trampoline:
    cli
    cld
    xorw %ax, %ax
    movw %ax, %ds
    lgdtl 0x8000 + trampoline_gdt_pointer - ap_trampoline
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $0x08, $(0x8000 + trampoline_32 - ap_trampoline)
.code32
trampoline_32:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $1, %edi
    movl $enter_long_mode, %eax
    jmpl *%eax
.balign 8
trampoline_gdt_pointer:
    .word 31
    .long boot_gdt
ap_trampoline_end:
.code64

.section .boot.data, "aw", @progbits
.balign 16
boot_gdt:
    .quad 0
    .quad 0x00cf9b000000ffff    // 0x08: 32-bit code
    .quad 0x00cf93000000ffff    // 0x10: data
    .quad 0x00af9b000000ffff    // 0x18: 64-bit code
boot_gdt_pointer:
    .word 31
    .long boot_gdt
boot_start_info:
    .long 0

.section .boot.bss, "aw", @nobits
.balign 4096
.global boot_pml4
boot_pml4:      .skip 4096
boot_pdpt:      .skip 4096
boot_pdpt_high: .skip 4096
boot_pd:        .skip 4 * 4096

.section .stack, "aw", @nobits
.balign 16
    .skip 65536
boot_stack_top:
.text
