/* A multiboot image that runs its first module, a static Linux program for x86-64 that may use AVX-512 and AMX, without a kernel:
 * long mode, one flat map of memory, one level of privilege, no interrupts; system.c answers the calls. */
    .code32
    .section .note.GNU-stack, "", @progbits
    .section .head, "ax"
    .globl start
    .align 4
header:
    .long 0x1badb002, 0x00010001, -(0x1badb002 + 0x00010001)
    .long header, image, image_end, memory_end, start
start:
    cld
    movl $stack_end, %esp
    movl 24(%ebx), %esi /* the first module */
    movl (%esi), %esi
    /* Pages of 2 MiB for the first 4 GiB, each address as it is. */
    movl $tables, %edi
    leal 0x1003(%edi), %eax
    movl %eax, (%edi)
    addl $0x1000, %edi
    leal 0x1003(%edi), %eax
    movl $4, %ecx
1:  movl %eax, (%edi)
    addl $8, %edi
    addl $0x1000, %eax
    loop 1b
    movl $tables + 0x2000, %edi
    movl $0x83, %eax
    movl $2048, %ecx
2:  movl %eax, (%edi)
    addl $8, %edi
    addl $0x200000, %eax
    loop 2b
    movl $tables, %eax
    movl %eax, %cr3
    movl $0x40620, %eax /* PAE, SSE and its exceptions, XSAVE */
    movl %eax, %cr4
    movl $0xc0000080, %ecx
    movl $0x101, %eax /* 64 bits, SYSCALL */
    xorl %edx, %edx
    wrmsr
    movl $0x80000023, %eax /* paging; no emulation of the FPU */
    movl %eax, %cr0
    lgdt gdt_pointer
    ljmp $8, $long_mode
    .code64
long_mode:
    movl $16, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $0xd, %eax
    xorl %ecx, %ecx
    cpuid
    andl $0x600e7, %eax /* the registers of AVX-512 and AMX, as far as the CPU has them */
    xorl %ecx, %ecx
    xorl %edx, %edx
    xsetbv
    fninit
    movl $0xc0000081, %ecx
    xorl %eax, %eax
    movl $8, %edx
    wrmsr
    incl %ecx
    leaq on_syscall(%rip), %rax
    xorl %edx, %edx
    wrmsr
    movl $0xc0000084, %ecx
    xorl %eax, %eax
    wrmsr
    movl %esi, %edi
    call load
    leaq program_stack(%rip), %rsp
    xorl %edx, %edx
    jmp *%rax
on_syscall: /* there is one level of privilege only: the program's own stack serves, below its red zone */
    leaq -128(%rsp), %rsp
    pushq %rcx
    pushq %rdi
    pushq %rsi
    pushq %rdx
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %rbp
    movq %rsp, %rbp
    andq $-16, %rsp
    movq %rdx, %rcx
    movq %rsi, %rdx
    movq %rdi, %rsi
    movq %rax, %rdi
    call answer
    movq %rbp, %rsp
    popq %rbp
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rdx
    popq %rsi
    popq %rdi
    popq %rcx
    leaq 128(%rsp), %rsp
    jmp *%rcx
    .align 8
gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
    .word 23
    .long gdt
