/* check_pictures.c - what examples/picture.h reads, as plain .npy, for tools/check_pictures.py.
 *
 *     cc -O2 tools/check_pictures.c -o check_pictures -lm
 *     ./check_pictures FILE ...
 *
 * writes each image to out-N.npy (bands, height, width) and prints a line: number of images in the file,
 * offset, pixel scale, whether the sky is known, RA, Dec, OBJECT; or "error: " and the sentence. */
#include "../examples/picture.h"
#include "../examples/text.h"

int main(int argc, char **argv)
{
    int i;
    for (i = 1; i < argc; i++) {
        picture p;
        size_t count, shape[3];
        char name[32], text[NPY_TEXT];
        if (!picture_count(&count, argv[i], text) || !picture_read(&p, argv[i], 0, text)) {
            printf("error: %s\n", text);
            continue;
        }
        shape[0] = p.bands;
        shape[1] = p.height;
        shape[2] = p.width;
        snprintf(name, sizeof name, "out-%d.npy", i - 1);
        if (!npy_write_float(name, p.pixels, 3, shape, text)) return puts(text), 1;
        printf("%lu %.17g %.17g %d %.17g %.17g ", (unsigned long)count, p.offset, p.pixel_scale,
               p.has_sky, p.ra, p.dec);
        text_print(stdout, p.object, TEXT_JSON);
        putchar('\n');
        picture_free(&p);
    }
    return 0;
}
