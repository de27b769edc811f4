/* png.h - small pictures as PNG inside HTML: 8 bits a pixel with a palette, stored without compression.
 * Include svg.h and zip.h (for the checksum) first. */
#ifndef PNG_H
#define PNG_H

typedef struct png_bytes {
    unsigned char *bytes;
    size_t size;
} png_bytes;

static void png_put(png_bytes *p, const void *bytes, size_t count)
{
    memcpy(p->bytes + p->size, bytes, count);
    p->size += count;
}

static void png_number(png_bytes *p, uint32_t value)
{
    unsigned char big[4];
    int i;
    for (i = 0; i < 4; i++) big[i] = (unsigned char)(value >> (24 - 8 * i) & 0xff);
    png_put(p, big, 4);
}

/* A chunk whose data stand at the end already, `count` bytes after its name. */
static void png_seal(png_bytes *p, size_t count)
{
    const unsigned char *name = p->bytes + p->size - count - 4;
    png_number(p, zip_checksum(name, count + 4));
}

static void png_chunk(png_bytes *p, const char *name, const void *data, size_t count)
{
    png_number(p, (uint32_t)count);
    png_put(p, name, 4);
    if (count) png_put(p, data, count);
    png_seal(p, count);
}

/* Rows, each behind its filter type 0, as stored deflate blocks in a zlib stream. */
static void png_rows(png_bytes *p, const unsigned char *pixels, size_t width, size_t height)
{
    const size_t row = width + 1, count = 2 + height * (5 + row) + 4;
    uint32_t a = 1, b = 0;
    size_t y, x;
    png_number(p, (uint32_t)count);
    png_put(p, "IDAT\x78\x01", 6);
    for (y = 0; y < height; y++) {
        const unsigned char head[6] = {
            (unsigned char)(y + 1 == height),  (unsigned char)(row & 0xff),
            (unsigned char)(row >> 8 & 0xff),  (unsigned char)(~row & 0xff),
            (unsigned char)(~row >> 8 & 0xff), 0};
        png_put(p, head, 6);
        png_put(p, pixels + y * width, width);
        b = (b + a) % 65521; /* Adler's sum, of the filter type */
        for (x = 0; x < width; x++) {
            a = (a + pixels[y * width + x]) % 65521;
            b = (b + a) % 65521;
        }
    }
    png_number(p, b << 16 | a);
    png_seal(p, count);
}

static void png_base64(sheet *s, const unsigned char *bytes, size_t count)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char text[4 * 256 + 1];
    size_t i, at = 0;
    for (i = 0; i < count; i += 3) {
        const size_t left = count - i;
        const uint32_t three = (uint32_t)bytes[i] << 16 |
                               (left > 1 ? (uint32_t)bytes[i + 1] << 8 : 0) |
                               (left > 2 ? (uint32_t)bytes[i + 2] : 0);
        text[at++] = digits[three >> 18];
        text[at++] = digits[three >> 12 & 63];
        text[at++] = left > 1 ? digits[three >> 6 & 63] : '=';
        text[at++] = left > 2 ? digits[three & 63] : '=';
        if (at < sizeof text - 1 && i + 3 < count) continue;
        text[at] = 0;
        sheet_add(s, "%s", text);
        at = 0;
    }
}

/* Appends "data:image/png;base64,..." of (height, width) numbers of a palette of 256 RGB colours. Sides
 * below 65535. */
SVG_API void png_data(sheet *s, const unsigned char *pixels, size_t width, size_t height,
                      const unsigned char *palette)
{
    png_bytes p = {NULL, 0}, head;
    unsigned char fields[13];
    p.bytes = (unsigned char *)malloc(1024 + 768 + height * (width + 6));
    if (!p.bytes) {
        s->failed = 1;
        return;
    }
    head.bytes = fields;
    head.size = 0;
    png_number(&head, (uint32_t)width);
    png_number(&head, (uint32_t)height);
    png_put(&head, "\x08\x03\0\0\0", 5);
    png_put(&p, "\x89PNG\r\n\x1a\n", 8);
    png_chunk(&p, "IHDR", fields, sizeof fields);
    png_chunk(&p, "PLTE", palette, 768);
    png_rows(&p, pixels, width, height);
    png_chunk(&p, "IEND", NULL, 0);
    sheet_add(s, "data:image/png;base64,");
    png_base64(s, p.bytes, p.size);
    free(p.bytes);
}

#endif
