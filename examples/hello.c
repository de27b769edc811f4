/* hello.c - what is in this image? Level 1 of lensnet.h: load weights, classify, print.
 * cc -O2 -fopenmp examples/hello.c -o hello -lm
 * ./hello weights/lensnet-atto.safetensors examples/images/lens-01.npy
 * prints one line, such as "vort 97.1 %" */
#define LENSNET_IMPLEMENTATION
#include "../lensnet.h"
#include "arguments.h"
#include "picture.h"

/* An image of one value shows nothing, but a network finds a class for it all the same. */
static int is_blank(const picture *p)
{
    size_t i, count = p->height * p->width;
    for (i = 1; i < count; i++)
        if (p->pixels[i] != p->pixels[0]) return 0;
    return 1;
}

int main(int argc, char **argv)
{
    static const char usage[] = "usage: hello WEIGHTS.safetensors IMAGE.npy|IMAGE.fits";
    lensnet_classifier *classifier;
    lensnet_prediction answer;
    lensnet_error error;
    picture image;
    if (arguments_parse(NULL, 0, usage, argc, argv) != 2) arguments_fail("%s", usage);
    if (!picture_read(&image, argv[2], 1, error.text) ||
        lensnet_classifier_load(&classifier, argv[1], NULL, &error) ||
        lensnet_classify(classifier, image.pixels, image.height, image.width, &answer, &error))
        return fprintf(stderr, "error: %s\n", error.text), 1;
    if (is_blank(&image))
        printf("nothing: every pixel is %g\n", (double)image.pixels[0]);
    else if (answer.unknown)
        printf("unknown (foreign: %.1f times the limit)\n", (double)answer.foreign);
    else
        printf("%s %.1f %%\n", answer.label, 100 * (double)answer.probability);
    lensnet_classifier_destroy(classifier);
    picture_free(&image);
    return arguments_flush() ? 0 : 1;
}
