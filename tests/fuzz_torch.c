/* fuzz_torch.c - arbitrary bytes as a PyTorch checkpoint (zip, pickle, legacy): tools/torch_file.h must
 * refuse or read them, and touch nothing else. With libFuzzer, or alone: 3,000 mutations of the fixtures
 * (another number as argument) under the sanitizers.
 * clang -g -O1 -fsanitize=fuzzer,address,undefined -DFUZZ_LIBFUZZER -DLENSNET_NO_SIMD -I. \
 *     tests/fuzz_torch.c -o build/fuzz_torch -lm
 * cc -g -O1 -fsanitize=address,undefined -DLENSNET_NO_SIMD -I. tests/fuzz_torch.c -o build/fuzz_torch -lm
 * build/fuzz_torch */
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"

#include "fuzz.h"
#include "tools/torch_file.h"

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
        float *values = entry->count < 1u << 17
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
int main(int count, char **arguments)
{
    static const char *const seeds[] = {"ok_handmade.pt",       "parameter.pt",
                                        "state_dict.pt",        "state_dict_legacy.pt",
                                        "state_dict_proto3.pt", "state_dict_proto4.pt",
                                        "bad_global_mixed.pt",  "ok_torch2_extra_records.pt",
                                        "deflated.pt",          NULL};
    static const char telling[] = "\x80\x02}]()cqXKJMNtRub.PK\x01\x02\x03\x04\x05\x06\n\xff";
    const fuzz_plan plan = {"tests/fixtures/torch", seeds, 3000, telling, sizeof telling - 1, 0};
    return fuzz_main(count, arguments, &plan);
}
#endif
