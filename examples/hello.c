/* hello.c - what is in this image? Level 1 of lensnet.h: load weights, classify, print.
 * cc -O2 -fopenmp examples/hello.c -o hello -lm
 * ./hello weights/lensnet-atto.safetensors examples/images/lens-01.npy
 * prints one line, such as "vort 97.1 %" */
#define LENSNET_IMPLEMENTATION
#include "../lensnet.h"
#include "npy.h"

int main(int argc, char **argv)
{
    lensnet_classifier *classifier;
    lensnet_prediction answer;
    lensnet_error error;
    size_t height, width;
    float *pixels;
    if (argc != 3) return fputs("usage: hello WEIGHTS.safetensors IMAGE.npy\n", stderr), 2;
    if (!npy_read_image(&pixels, &height, &width, argv[2], error.text) ||
        lensnet_classifier_load(&classifier, argv[1], NULL, &error) ||
        lensnet_classify(classifier, pixels, height, width, &answer, &error))
        return fprintf(stderr, "error: %s\n", error.text), 1;
    printf("%s %.1f %%\n", answer.label, 100 * answer.probability);
    lensnet_classifier_destroy(classifier);
    free(pixels);
    return 0;
}
