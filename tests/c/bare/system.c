/* The system for one static Linux program that only computes and prints, as much of it as that takes: what is printed goes
 * to the first serial port. */
#include <elf.h>
#include <stdint.h>
#include <sys/syscall.h>

/* From layout.ld; the program's stack ends there, and its arguments follow. */
extern uint64_t program_stack[];
extern char heap[];
static uint64_t heap_end = (uint64_t)heap;

/* Called by start.S. */
int64_t answer(uint64_t call, uint64_t a, uint64_t b, uint64_t c);
uint64_t load(const char *file);

static void out(uint16_t port, uint8_t value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }

static void print(const char *text, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        uint8_t status;
        do
            __asm__ volatile("inb %1, %0" : "=a"(status) : "Nd"((uint16_t)0x3fd));
        while (!(status & 0x20));
        out(0x3f8, (uint8_t)text[i]);
    }
}

static _Noreturn void stop(uint64_t status)
{
    char text[] = "exit status 000\n";
    text[12] += (char)(status / 100 % 10), text[13] += (char)(status / 10 % 10), text[14] += (char)(status % 10);
    print(text, sizeof text - 1);
    print("\n\n", 2); /* pushes the line out of the port */
    for (const char *c = "Shutdown"; *c; c++) out(0x8900, (uint8_t)*c); /* bochs ends at that */
    for (;;) __asm__ volatile("hlt");
}

int64_t answer(uint64_t call, uint64_t a, uint64_t b, uint64_t c)
{
    switch (call) {
    case SYS_brk:
        if (a >= (uint64_t)heap) heap_end = a;
        return (int64_t)heap_end;
    case SYS_arch_prctl:
        if (a == 0x1023) return 0;   /* ARCH_REQ_XCOMP_PERM: start.S has enabled what there is */
        if (a != 0x1002) return -22; /* ARCH_SET_FS; EINVAL */
        __asm__ volatile("wrmsr" : : "c"(0xc0000100), "a"((uint32_t)b), "d"((uint32_t)(b >> 32)));
        return 0;
    case SYS_write: print((const char *)b, c); return (int64_t)c;
    case SYS_mprotect: return 0;
    case SYS_exit_group: stop(a & 0xff);
    default: return -38; /* ENOSYS */
    }
}

/* Puts the program where it belongs, and its arguments on its stack; returns its entry. */
uint64_t load(const char *file)
{
    const Elf64_Ehdr *head = (const void *)file;
    const Elf64_Phdr *parts = (const void *)(file + head->e_phoff);
    uint64_t headers = 0;
    for (int i = 0; i < head->e_phnum; i++) {
        if (parts[i].p_type != PT_LOAD) continue;
        char *to = (char *)parts[i].p_vaddr;
        for (uint64_t k = 0; k < parts[i].p_memsz; k++) to[k] = k < parts[i].p_filesz ? file[parts[i].p_offset + k] : 0;
        if (parts[i].p_offset == 0) headers = parts[i].p_vaddr + head->e_phoff;
    }
    out(0x3fb, 3); /* the serial port sends words of 8 bits */
    static const char random[16] = {1}, name[] = "program", quick[] = "quick";
    const uint64_t stack[] = {
        2, (uint64_t)name, (uint64_t)quick, 0, 0, AT_PHDR, headers, AT_PHNUM, head->e_phnum, AT_PHENT, sizeof *parts,
        AT_PAGESZ, 4096, AT_ENTRY, head->e_entry, AT_RANDOM, (uint64_t)random, AT_NULL, 0,
    };
    for (unsigned i = 0; i < sizeof stack / 8; i++) program_stack[i] = stack[i];
    return head->e_entry;
}
