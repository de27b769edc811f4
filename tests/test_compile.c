/* test_compile.c - the header as programs meet it: included twice, then with its body, then again; in
 * C and, through test_compile.cpp, in C++. The runner compiles it with every warning as an error.
 * cc -O2 -fopenmp -I. tests/test_compile.c -o build/test_compile -lm */
#include "lensnet.h"
#include "lensnet.h"

#ifdef TEST_OTHER_MALLOC
#include <stdlib.h>
static int other_blocks;
static void *other_malloc(size_t bytes)
{
    other_blocks++;
    return malloc(bytes);
}
static void other_free(void *block)
{
    other_blocks--;
    free(block);
}
#endif

#define LENSNET_IMPLEMENTATION
#include "lensnet.h"
#include "lensnet.h"
#include "test.h"

static void test_texts(void)
{
    int code;
    CHECK(strcmp(lensnet_result_text(LENSNET_OK), "success") == 0);
    for (code = 0; code >= LENSNET_ERROR_NUMBER; code--)
        CHECK(strcmp(lensnet_result_text((lensnet_result)code), "unknown result") != 0);
    CHECK(lensnet_isa_text(lensnet_isa_in_use(NULL)) != NULL);
    CHECK_CLOSE(lensnet_exp(1), 2.718281828459045, 1e-15, "e");
}

/* A model comes and goes, through the hooks of this build. */
static void test_model(void)
{
    lensnet_model_desc desc = lensnet_model_defaults();
    lensnet_model *model = NULL;
    lensnet_error error;
    CHECK(!lensnet_model_variant(&desc, "atto", &error));
    CHECK(!lensnet_model_create(&model, &desc, &error));
    CHECK(model != NULL);
#ifdef TEST_OTHER_MALLOC
    CHECK(other_blocks > 0);
#endif
    lensnet_model_destroy(model);
#ifdef TEST_OTHER_MALLOC
    CHECK(other_blocks == 0);
#endif
}

int main(void)
{
    test_texts();
    test_model();
    return test_end();
}
