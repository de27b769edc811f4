/* fuzz_safetensors.c - arbitrary bytes as a safetensors file: refused or read, and as a ConvNeXt V2
 * too, and nothing else touched. With libFuzzer, or alone: 20,000 mutations of the fixtures
 * (another number as first argument) and every file named after it, under the sanitizers.
 * clang -g -O1 -fsanitize=fuzzer,address,undefined -DFUZZ_LIBFUZZER -I. tests/fuzz_safetensors.c \
 *     -o build/fuzz_safetensors -lm
 * cc -g -O1 -fsanitize=address,undefined -I. tests/fuzz_safetensors.c -o build/fuzz_safetensors -lm
 * build/fuzz_safetensors */
#define LENSNET_IMPLEMENTATION
#include "lensnet.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

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
static uint64_t state = 1;

static size_t draw(size_t bound) /* splitmix64 */
{
    uint64_t z = state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return (size_t)((z ^ z >> 31) % bound);
}

/* Some of: change a byte of the header, put a telling character, cut, repeat a piece; then, mostly,
 * make the length at the front right again, so that the change is reached. */
static size_t mutate(uint8_t *data, size_t size, size_t capacity)
{
    static const char telling[] = "{}[],:\"\\u0189-.eFIU \n";
    size_t header = size < 8 ? 0 : (size_t)lnp_load64(data) % size;
    size_t n = 1 + draw(4), before = size;
    while (n-- && size > 8) {
        size_t at = header ? draw(lnp_min(header, size)) : draw(size);
        switch (draw(5)) {
        case 0: data[at] = (uint8_t)draw(256); break;
        case 1:
        case 2: data[at] = (uint8_t)telling[draw(sizeof telling - 1)]; break;
        case 3: size -= draw(size / 8 + 1); break;
        default: {
            size_t length = lnp_min(size - at, 16);
            if (size + length <= capacity) {
                memmove(data + at + length, data + at, size - at);
                size += length;
            }
        }
        }
    }
    if (size >= 8 && draw(8)) lnp_store64(data, header + size - lnp_min(before, size));
    return size;
}

static size_t load(uint8_t *data, size_t capacity, const char *path)
{
    FILE *file = fopen(path, "rb");
    size_t size;
    if (!file) {
        printf("%s is missing; run from the top folder\n0 passed, 1 failed\n", path);
        exit(1);
    }
    size = fread(data, 1, capacity, file);
    fclose(file);
    return size;
}

/* On a block of just that size, so that a step too far is seen. */
static void run(const uint8_t *data, size_t size)
{
    uint8_t *exact = (uint8_t *)malloc(size ? size : 1);
    if (!exact) return;
    memcpy(exact, data, size);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
}

int main(int count, char **arguments)
{
    static const char *const seeds[] = {"ok_basic",        "ok_reference_writer",
                                        "ok_bf16_f16",     "ok_unaligned_header_and_escapes",
                                        "ok_out_of_order", "bad_metadata_not_string",
                                        "small_hf_f16"};
    static uint8_t data[1 << 18];
    long rounds = count > 1 ? strtol(arguments[1], NULL, 10) : 20000;
    long round;
    int i;
    for (round = 0; round < rounds; round++) {
        char path[96];
        /* the last seed, the only network, is large: it gets one round in 64 */
        size_t seed =
            round % 64 ? draw(sizeof seeds / sizeof *seeds - 1) : sizeof seeds / sizeof *seeds - 1;
        size_t size;
        snprintf(path, sizeof path, "tests/fixtures/files/%s.safetensors", seeds[seed]);
        size = load(data, sizeof data, path);
        run(data, mutate(data, size, sizeof data));
    }
    for (i = 2; i < count; i++) run(data, load(data, sizeof data, arguments[i]));
    printf("%ld files read\n1 passed, 0 failed\n", rounds + (count > 2 ? count - 2 : 0));
    return 0;
}
#endif
