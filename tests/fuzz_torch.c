/* fuzz_torch.c - arbitrary bytes as a PyTorch checkpoint (zip, pickle, legacy): tools/torch_file.h must
 * refuse or read them, and touch nothing else. With libFuzzer, or alone: 3,000 mutations of the fixtures
 * (another number as argument) under the sanitizers.
 * clang -g -O1 -fsanitize=fuzzer,address,undefined -DFUZZ_LIBFUZZER -DLENSNET_NO_SIMD -I. \
 *     tests/fuzz_torch.c -o build/fuzz_torch -lm
 * cc -g -O1 -fsanitize=address,undefined -DLENSNET_NO_SIMD -I. tests/fuzz_torch.c -o build/fuzz_torch -lm
 * build/fuzz_torch */
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"

#include "tools/torch_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    unsigned char *copy = (unsigned char *)malloc(size ? size : 1);
    torch_file torch;
    lensnet_archive *archive = NULL;
    lensnet_host host;
    lensnet_result result;
    size_t i;
    if (!copy) return 0;
    if (size) memcpy(copy, data, size);
    result = torch_file_open_memory(&torch, copy, size, NULL, NULL); /* takes the copy over */
    if (result) return 0;
    result = torch_file_host(&torch, &host, NULL);
    if (!result) result = lensnet_archive_open(&archive, "memory", &host, NULL);
    for (i = 0; !result && i < lensnet_archive_count(archive); i++) {
        const lensnet_archive_entry *entry = lensnet_archive_at(archive, i);
        float *values = entry->count < 1u << 24
                            ? (float *)malloc((size_t)entry->count * sizeof *values + 1)
                            : NULL;
        if (values) (void)lensnet_archive_read_float(values, archive, entry, NULL);
        free(values);
    }
    lensnet_archive_close(archive);
    torch_file_close(&torch);
    return 0;
}

#ifndef FUZZ_LIBFUZZER
static size_t draw(size_t bound)
{
    static uint64_t index;
    return (size_t)(lensnet_random_bits(1, 3, index++) % bound);
}

/* Some of: flip a bit, put a telling byte, cut, repeat a piece. */
static size_t mutate(uint8_t *data, size_t size, size_t capacity)
{
    static const char telling[] = "\x80\x02}]()cqXKJMNtRub.PK\x01\x02\x03\x04\x05\x06\n\xff";
    size_t n = 1 + draw(4);
    while (n-- && size > 8) {
        const size_t at = draw(size), length = size - at < 16 ? size - at : 16;
        switch (draw(5)) {
        case 0: data[at] ^= (uint8_t)(1u << draw(8)); break;
        case 1:
        case 2: data[at] = (uint8_t)telling[draw(sizeof telling - 1)]; break;
        case 3: size -= draw(size / 8 + 1); break;
        default:
            if (size + length > capacity) break;
            memmove(data + at + length, data + at, size - at);
            size += length;
        }
    }
    return size;
}

int main(int count, char **arguments)
{
    static const char *const seeds[] = {"ok_handmade.pt",
                                        "parameter.pt",
                                        "state_dict.pt",
                                        "state_dict_legacy.pt",
                                        "state_dict_proto3.pt",
                                        "state_dict_proto4.pt",
                                        "ok_torch2_extra_records.pt",
                                        "bad_global_mixed.pt",
                                        "deflated.pt"};
    static uint8_t original[1 << 17], data[1 << 18];
    long rounds = count > 1 ? strtol(arguments[1], NULL, 10) : 3000, round;
    for (round = 0; round < rounds; round++) {
        char path[96];
        FILE *file;
        size_t size;
        uint8_t *exact;
        snprintf(path, sizeof path, "tests/fixtures/torch/%s",
                 seeds[draw(sizeof seeds / sizeof *seeds)]);
        file = fopen(path, "rb");
        if (!file) {
            printf("%s is missing; run from the top folder\n0 passed, 1 failed\n", path);
            return 1;
        }
        size = fread(original, 1, sizeof original, file);
        fclose(file);
        memcpy(data, original, size);
        size = mutate(data, size, sizeof data);
        exact = (uint8_t *)malloc(size ? size : 1);
        if (!exact) return 1;
        memcpy(exact, data, size);
        LLVMFuzzerTestOneInput(exact, size);
        free(exact);
    }
    printf("%ld files read\n1 passed, 0 failed\n", rounds);
    return 0;
}
#endif
