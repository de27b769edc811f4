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
#ifndef TEST_INEXACT
    CHECK_CLOSE(lensnet_exp(1), 2.718281828459045, 1e-15, "e");
#endif
}

/* A model and a graph come and go, through the hooks of this build. TEST_INEXACT tells that the build's
 * arithmetic is not IEEE 754's: that must be seen before anything is computed. */
static void test_model(void)
{
#ifdef TEST_INEXACT
    const lensnet_result expected = LENSNET_ERROR_NUMBER;
#else
    const lensnet_result expected = LENSNET_OK;
#endif
    lensnet_model_desc desc = lensnet_model_defaults();
    lensnet_graph_options options = lensnet_graph_defaults();
    lensnet_model *model = NULL;
    lensnet_graph *graph = NULL;
    lensnet_error error;
    CHECK(!lensnet_model_variant(&desc, "atto", &error));
    desc.gradients = 0;
    CHECK(!lensnet_model_create(&model, &desc, &error));
    CHECK(model != NULL);
    options.height = options.width = 32;
    options.batch = 1;
    CHECK(!lensnet_model_graph(&graph, model, &options, NULL, &error));
    CHECK(!lensnet_graph_plan(graph, NULL, &error));
    CHECK(lensnet_graph_allocate(graph, &error) == expected);
#ifdef TEST_OTHER_MALLOC
    CHECK(other_blocks > 0);
#endif
    lensnet_graph_destroy(graph);
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
