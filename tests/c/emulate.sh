#!/usr/bin/env bash
# Runs a static program with the argument "quick" on bochs as another CPU, without a kernel (tests/c/bare), and expects a
# line of its output that begins with "NAME: ".
# Usage: tests/c/emulate.sh PROGRAM FOLDER CPU NAME, where FOLDER is for what is made on the way, and CPU is one of
# "bochs --help cpu". BOCHS names another bochs than that of the PATH.
set -euo pipefail
program=$(realpath "$1") folder=$2 cpu=$3 name=$4 source=$(realpath "$(dirname "$0")")/bare
isolinux=/usr/lib/ISOLINUX/isolinux.bin modules=/usr/lib/syslinux/modules/bios
bochs=$(command -v "${BOCHS:-bochs}" || echo bochs)
share=$(realpath -m "$(dirname "$bochs")/../share/bochs")

vga=$share/VGABIOS-lgpl-latest
[ -e "$vga" ] || vga+=.bin

for needed in $bochs script xorriso $isolinux $modules/mboot.c32 $share/BIOS-bochs-latest $vga; do
    command -v "$needed" > /dev/null || [ -e "$needed" ] || { echo "emulate: $needed is missing (Debian: apt-get install" \
        "bochs bochs-term bochsbios vgabios isolinux syslinux-common xorriso bsdutils)" >&2; exit 1; }
done
cpus=$("$bochs" --help cpu < /dev/null 2>&1 || true)
grep -qx "$cpu" <<< "$cpus" || { echo "emulate: $bochs has no CPU $cpu; BOCHS=PATH names another one" \
    "(release 3.0 and later, configured with --enable-evex --enable-amx and a text display: --with-term)" >&2; exit 1; }

mkdir -p "$folder/disc/isolinux"
cd "$folder"
# No vector registers: the program's own must survive its system calls.
${CC:-cc} -O1 -ffreestanding -fno-stack-protector -fno-pic -no-pie -mgeneral-regs-only -mno-red-zone -fcf-protection=none \
    -Wall -Wextra -nostdlib -static -Wl,-T,"$source/layout.ld" -Wl,--build-id=none "$source/start.S" "$source/system.c" \
    -o loader.elf
objcopy -O binary loader.elf disc/loader
cp "$program" disc/program
cp $isolinux $modules/{ldlinux,libcom32,mboot}.c32 disc/isolinux/
printf '%s\n' 'DEFAULT run' 'PROMPT 0' 'LABEL run' 'KERNEL mboot.c32' 'APPEND /loader --- /program' > disc/isolinux/isolinux.cfg
xorriso -as mkisofs -quiet -b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot -boot-load-size 4 -boot-info-table \
    -o disc.iso disc 2> /dev/null

cat > bochsrc << END
cpu: model=$cpu, count=1, ips=50000000
memory: guest=512, host=512
romimage: file=$share/BIOS-bochs-latest
vgaromimage: file=$vga
boot: cdrom
ata0-master: type=cdrom, path=disc.iso, status=inserted
com1: enabled=1, mode=file, dev=printed
display_library: term
clock: sync=none
log: bochs.log
panic: action=fatal
error: action=ignore
info: action=ignore
END
rm -f printed bochs.log
# bochs wants a terminal, Debian's waits in its debugger for "c", and its exit status says nothing.
echo c | TERM=vt100 timeout -s KILL "${EMULATION_SECONDS:-1800}" script -qec "exec $bochs -q -f bochsrc" /dev/null > terminal 2>&1 || true
cat printed 2> /dev/null || true
grep -q "^$name: " printed && grep -q '^exit status 000' printed || { echo "emulate: failed; see $PWD/bochs.log and terminal" >&2; exit 1; }
