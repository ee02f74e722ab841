/* Gives every file that is named to the fuzzer's entry point, in the order given: replay FILE... */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int main(int count, char **names)
{
    for (int i = 1; i < count; i++) {
        FILE *file = fopen(names[i], "rb");
        if (!file || fseek(file, 0, SEEK_END)) {
            perror(names[i]);
            return 2;
        }
        const long size = ftell(file);
        rewind(file);
        /* Of exactly this size, so that reading on is noticed. */
        uint8_t *data = malloc(size > 0 ? (size_t)size : 1);
        if (!data || fread(data, 1, (size_t)size, file) != (size_t)size) {
            perror(names[i]);
            return 2;
        }
        fclose(file);
        /* Which one it was, should it be the last. */
        fprintf(stderr, "%s\n", names[i]);
        LLVMFuzzerTestOneInput(data, (size_t)size);
        free(data);
    }
    printf("%d replayed\n", count - 1);
    return 0;
}
