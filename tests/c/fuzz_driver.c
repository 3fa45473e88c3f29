/* Runs a fuzz target without libFuzzer, for compilers that lack it: the files named, or "-runs=N" random inputs. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MOST_BYTES = 2048 };

static int run_file(const char *path)
{
    static uint8_t data[1 << 20];
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        fprintf(stderr, "%s: cannot open it\n", path);
        return 1;
    }
    const size_t size = fread(data, 1, sizeof data, file);
    fclose(file);
    uint8_t *own = malloc(size ? size : 1);
    if (own == NULL) return 1;
    memcpy(own, data, size);
    LLVMFuzzerTestOneInput(own, size);
    free(own);
    return 0;
}

static void run_random(long runs)
{
    static uint8_t data[MOST_BYTES];
    uint64_t state = 0x9e3779b97f4a7c15u;
    for (long run = 0; run < runs; run++) {
        size_t size = 0;
        do {
            state ^= state << 13, state ^= state >> 7, state ^= state << 17;
            data[size++] = (uint8_t)(state >> 56);
        } while (size < MOST_BYTES && state % 199);
        LLVMFuzzerTestOneInput(data, size);
    }
    printf("Done %ld runs\n", runs);
}

int main(int argc, char **argv)
{
    int failed = 0;
    for (int i = 1; i < argc; i++) {
        if (!strncmp(argv[i], "-runs=", 6))
            run_random(strtol(argv[i] + 6, NULL, 10));
        else
            failed |= run_file(argv[i]);
    }
    return failed;
}
