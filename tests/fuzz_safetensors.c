/* fuzz_safetensors.c - arbitrary bytes as a safetensors file: refused or read, and as a ConvNeXt V2
 * too, and nothing else touched. With libFuzzer, or alone: 20,000 mutations of the fixtures (another
 * number as argument) under the sanitizers; fuzz_network.c has whole networks.
 * clang -g -O1 -fsanitize=fuzzer,address,undefined -DFUZZ_LIBFUZZER -I. tests/fuzz_safetensors.c \
 *     -o build/fuzz_safetensors -lm
 * cc -g -O1 -fsanitize=address,undefined -I. tests/fuzz_safetensors.c -o build/fuzz_safetensors -lm
 * build/fuzz_safetensors */
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"

#include "fuzz.h"

static void read_tensors(const lensnet_archive *archive)
{
    size_t i;
    for (i = 0; i < lensnet_archive_count(archive); i++) {
        const lensnet_archive_entry *entry = lensnet_archive_at(archive, i);
        float *values = (float *)malloc((size_t)entry->count * sizeof *values + 1);
        if (values) (void)lensnet_archive_read_float(values, archive, entry, NULL);
        free(values);
        if (lensnet_archive_find(archive, entry->name) != entry) abort();
    }
}

/* Whatever is accepted can be saved: the writer checks what it is given. */
static void save_tensors(const lensnet_archive *archive, const uint8_t *data)
{
    lensnet_archive_tensor tensor;
    size_t i;
    for (i = 0; i < lensnet_archive_count(archive) && i < 4; i++) {
        const lensnet_archive_entry *entry = lensnet_archive_at(archive, i);
        memset(&tensor, 0, sizeof tensor);
        tensor.name = entry->name;
        tensor.dtype = entry->dtype;
        tensor.rank = entry->rank;
        memcpy(tensor.shape, entry->shape, sizeof tensor.shape);
        tensor.bytes = data + entry->offset;
        if (lnp_tensor_problem(&tensor)) abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    lensnet_archive *archive;
    lensnet_error error;
    if (lensnet_archive_open_memory(&archive, data, size, NULL, &error) == LENSNET_OK) {
        lnp_checkpoint checkpoint;
        read_tensors(archive);
        save_tensors(archive, data);
        (void)lensnet_archive_metadata(archive, "format");
        (void)lnp_checkpoint_open(&checkpoint, archive, NULL, &error);
    }
    lensnet_archive_close(archive);
    return 0;
}

#ifndef FUZZ_LIBFUZZER
int main(int count, char **arguments)
{
    static const char *const seeds[] = {"ok_basic.safetensors",
                                        "ok_reference_writer.safetensors",
                                        "ok_bf16_f16.safetensors",
                                        "ok_unaligned_header_and_escapes.safetensors",
                                        "ok_out_of_order.safetensors",
                                        "bad_metadata_not_string.safetensors",
                                        NULL};
    static const char telling[] = "{}[],:\"\\u0189-.eFIU \n";
    const fuzz_plan plan = {"tests/fixtures/files", seeds, 20000, telling, sizeof telling - 1, 1};
    return fuzz_main(count, arguments, &plan);
}
#endif
