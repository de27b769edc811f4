/* fits.h - finds the image in a FITS file, and what its header says of the sky. Needs libc and libm.
 *
 * Understood: primary images and image extensions of every BITPIX (8, 16, 32, 64, -32, -64), BSCALE,
 * BZERO and BLANK; of the sky RA, DEC, OBJECT and a linear or gnomonic (TAN) coordinate system. Where
 * nothing else is asked for, the first unit that holds an image is taken, unless its EXTNAME is that of errors,
 * weights or a mask. Refused, by name: tables,
 * tile-compressed images, random groups. A file is taken for hostile: every size is checked against
 * the file before it is used.
 *
 * The standard: FITS 4.0, https://fits.gsfc.nasa.gov/fits_standard.html. Rows stand in the order of the
 * file, as astropy gives them. */
#ifndef FITS_H
#define FITS_H

#include "zip.h"

#include <locale.h>
#include <math.h>

enum {
    FITS_BLOCK = 2880,
    FITS_CARD = 80,
    FITS_RANK = 8,            /* most axes of an image that is read */
    FITS_BLOCKS_MAX = 4000,   /* of one header */
    FITS_UNITS_MAX = 10000,   /* header and data units in a file */
    FITS_WORD = FITS_CARD - 8 /* room for a text value and its zero */
};

typedef struct fits_image {
    int unit;   /* 0: the primary one */
    int bitpix; /* 8, 16, 32, 64: integers (8: unsigned); -32, -64: floating point. Big-endian. */
    int rank;   /* at least 2 */
    uint64_t shape[FITS_RANK]; /* as in NumPy: the last index runs fastest */
    uint64_t offset;           /* of the first number in the file */
    double scale, zero;        /* pixel = scale * number + zero */
    int has_blank;
    int64_t blank;          /* the integer that stands for no value */
    double pixel_scale;     /* arc seconds; 0: unknown */
    int has_sky;            /* 1: the next two are known */
    double ra, dec;         /* degrees: keywords RA and DEC, else the image's centre */
    char object[FITS_WORD]; /* ""; from strangers, see text.h */
} fits_image;

/* ---- one card ---- */

/* Does the card (80 characters) hold a value of that keyword? */
static int fits_is(const char *card, const char *keyword)
{
    size_t i, length = strlen(keyword);
    if (memcmp(card, keyword, length) != 0) return 0;
    for (i = length; i < 8; i++)
        if (card[i] != ' ') return 0;
    return card[8] == '=' && card[9] == ' ';
}

/* The value as it stands, without spaces around it and without comment. Texts lose their quotes. */
static void fits_value(char value[FITS_WORD], const char *card)
{
    int at = 10, n = 0;
    while (at < FITS_CARD && card[at] == ' ') at++;
    if (at < FITS_CARD && card[at] == '\'') {
        for (at++; at < FITS_CARD && n < FITS_WORD - 1; at++) {
            if (card[at] == '\'' && (at + 1 == FITS_CARD || card[at + 1] != '\'')) break;
            if (card[at] == '\'') at++;
            value[n++] = card[at];
        }
    } else {
        for (; at < FITS_CARD && card[at] != '/' && n < FITS_WORD - 1; at++) value[n++] = card[at];
    }
    while (n && value[n - 1] == ' ') n--;
    value[n] = 0;
}

static int fits_whole(int64_t *number, const char *card)
{
    char value[FITS_WORD], *end;
    fits_value(value, card);
    *number = strtoll(value, &end, 10);
    return end != value && !*end;
}

/* A real number in FITS's spelling (D for an exponent too), whatever the locale. */
static int fits_parse_real(double *number, const char *text)
{
    char copy[FITS_WORD], *end;
    size_t i;
    for (i = 0; i + 1 < sizeof copy && text[i]; i++)
        copy[i] = text[i] == '.'                     ? *localeconv()->decimal_point
                  : text[i] == 'D' || text[i] == 'd' ? 'E'
                                                     : text[i];
    copy[i] = 0;
    *number = strtod(copy, &end);
    return end != copy && !*end && *number - *number == 0;
}

static int fits_real(double *number, const char *card)
{
    char value[FITS_WORD];
    fits_value(value, card);
    return fits_parse_real(number, value);
}

/* Degrees, or a text such as 12:34:56.7 in units of `unit` degrees (15 for hours). */
static int fits_angle(double *degrees, const char *card, double unit)
{
    char value[FITS_WORD], *part = value, *next;
    double parts[3] = {0, 0, 0}, sign = 1;
    int i;
    fits_value(value, card);
    if (!strpbrk(value, ": ")) return fits_parse_real(degrees, value);
    if (*part == '-') sign = -1;
    if (*part == '-' || *part == '+') part++;
    for (i = 0; i < 3 && part; i++, part = next) {
        next = strpbrk(part, ": ");
        if (next) *next++ = 0;
        if (!fits_parse_real(&parts[i], part)) return 0;
    }
    *degrees = sign * unit * (parts[0] + parts[1] / 60 + parts[2] / 3600);
    return 1;
}

/* ---- one header ---- */

/* What is kept of a header while it is read. */
typedef struct fits_header {
    fits_image image;
    int64_t naxis, pcount, gcount, axis[FITS_RANK + 1]; /* axis[1] is NAXIS1 */
    int is_image, is_primary, compressed, groups;
    char kind[FITS_WORD], name[FITS_WORD]; /* of an extension: XTENSION, EXTNAME */
    char type[2][FITS_WORD];
    double value[2], pixel[2], delta[2], matrix[2][2]; /* CRVAL, CRPIX, CDELT, CD or PC */
    int has_matrix, has_delta, has_cd, has_value;      /* bits: 1 first axis, 2 second */
    int has_target;                                    /* bits: 1 RA, 2 DEC */
    double target[2], arcsec;
    uint64_t bytes; /* of the data, without padding */
} fits_header;

/* Does the card hold a value of KEYWORDn with n = 1 ... most? Its n, else 0. */
static int fits_axis(const char *card, const char *keyword, int most)
{
    size_t i, length = strlen(keyword);
    const int n = card[length] - '0';
    if (memcmp(card, keyword, length) != 0 || n < 1 || n > most) return 0;
    for (i = length + 1; i < 8; i++)
        if (card[i] != ' ') return 0;
    return card[8] == '=' && card[9] == ' ' ? n : 0;
}

static void fits_axis_real(double values[2], int *known, const char *card, const char *keyword)
{
    const int n = fits_axis(card, keyword, 2);
    if (n && fits_real(&values[n - 1], card)) *known |= n;
}

static void fits_sky_card(fits_header *h, const char *card)
{
    static const char *const degrees[2][2] = {{"CD1_1", "CD1_2"}, {"CD2_1", "CD2_2"}};
    static const char *const plain[2][2] = {{"PC1_1", "PC1_2"}, {"PC2_1", "PC2_2"}};
    int i, j, ignored = 0;
    fits_axis_real(h->value, &h->has_value, card, "CRVAL");
    fits_axis_real(h->pixel, &ignored, card, "CRPIX");
    fits_axis_real(h->delta, &h->has_delta, card, "CDELT");
    if ((i = fits_axis(card, "CTYPE", 2)) > 0) fits_value(h->type[i - 1], card);
    for (i = 0; i < 2; i++)
        for (j = 0; j < 2; j++) {
            if (fits_is(card, degrees[i][j]) && fits_real(&h->matrix[i][j], card)) h->has_cd = 1;
            if (fits_is(card, plain[i][j]) && fits_real(&h->matrix[i][j], card)) h->has_matrix = 1;
        }
    if (fits_is(card, "RA") && fits_angle(&h->target[0], card, 15)) h->has_target |= 1;
    if (fits_is(card, "DEC") && fits_angle(&h->target[1], card, 1)) h->has_target |= 2;
    if (fits_is(card, "PIXSCALE")) fits_real(&h->arcsec, card);
    if (fits_is(card, "OBJECT")) fits_value(h->image.object, card);
}

/* 0 and a sentence for a card that cannot be right. */
static int fits_card(fits_header *h, const char *card, char *text)
{
    char value[FITS_WORD];
    int64_t number = 0;
    int axis, good = 1;
    if (fits_is(card, "BITPIX")) {
        good = fits_whole(&number, card);
        h->image.bitpix = (int)number;
        good = good && (number == 8 || number == 16 || number == 32 || number == 64 ||
                        number == -32 || number == -64);
    } else if (fits_is(card, "NAXIS")) {
        good = fits_whole(&h->naxis, card) && h->naxis >= 0 && h->naxis <= 999;
    } else if (fits_is(card, "PCOUNT")) {
        good = fits_whole(&h->pcount, card) && h->pcount >= 0;
    } else if (fits_is(card, "GCOUNT")) {
        good = fits_whole(&h->gcount, card) && h->gcount >= 0;
    } else if (fits_is(card, "BSCALE")) {
        good = fits_real(&h->image.scale, card);
    } else if (fits_is(card, "BZERO")) {
        good = fits_real(&h->image.zero, card);
    } else if (fits_is(card, "BLANK")) {
        good = h->image.has_blank = fits_whole(&h->image.blank, card);
    } else if (fits_is(card, "EXTNAME")) {
        fits_value(h->name, card);
    } else if (fits_is(card, "ZIMAGE") || fits_is(card, "GROUPS")) {
        fits_value(value, card);
        *(card[0] == 'Z' ? &h->compressed : &h->groups) = value[0] == 'T';
    } else if ((axis = fits_axis(card, "NAXIS", FITS_RANK)) > 0) {
        good = fits_whole(&h->axis[axis], card);
    } else {
        fits_sky_card(h, card);
    }
    return good || zip_fail(text, "its FITS header has an impossible value of %.8s.", card);
}

static void fits_header_begin(fits_header *h)
{
    memset(h, 0, sizeof *h);
    h->gcount = 1;
    h->image.scale = 1;
    h->matrix[0][0] = h->matrix[1][1] = 1;
    h->naxis = -1;
}

/* What kind of unit begins with this card? */
static int fits_first_card(fits_header *h, const char *card, char *text)
{
    char value[FITS_WORD];
    fits_value(value, card);
    h->is_primary = fits_is(card, "SIMPLE");
    if (h->is_primary && strcmp(value, "T") != 0)
        return zip_fail(text,
                        "it is a FITS file that does not keep to the standard (SIMPLE is not T).");
    if (!h->is_primary && !fits_is(card, "XTENSION"))
        return zip_fail(text,
                        "its FITS extension does not begin with XTENSION; is the file damaged?");
    if (!h->is_primary) memcpy(h->kind, value, sizeof h->kind);
    h->is_image = h->is_primary || !strcmp(value, "IMAGE");
    return 1;
}

/* Sizes: of the data, and the shape in NumPy's order without a zero in it. */
static int fits_sizes(fits_header *h, char *text)
{
    uint64_t item = (uint64_t)abs(h->image.bitpix) / 8, count = h->naxis ? 1 : 0;
    int64_t i;
    if (h->naxis < 0 || !item) return zip_fail(text, "its FITS header lacks BITPIX or NAXIS.");
    if (h->naxis > FITS_RANK)
        return zip_fail(text, "its FITS header names %d axes; an image has 2 or 3.", (int)h->naxis);
    for (i = 1; i <= h->naxis; i++) {
        uint64_t n = (uint64_t)h->axis[i];
        if (h->axis[i] < 0 || (n && count > UINT64_MAX / 16 / n))
            return zip_fail(text, "its FITS header claims an impossible size.");
        if (!(h->groups && i == 1)) count *= n;
        h->image.shape[h->naxis - i] = n;
    }
    h->image.rank = (int)h->naxis;
    if ((uint64_t)h->pcount > UINT64_MAX / 16 - count)
        return zip_fail(text, "its FITS header claims an impossible size.");
    count += (uint64_t)h->pcount;
    if (h->gcount && count > UINT64_MAX / 16 / (uint64_t)h->gcount)
        return zip_fail(text, "its FITS header claims an impossible size.");
    h->bytes = count * (uint64_t)h->gcount * item;
    return 1;
}

/* Reads the header at *offset and moves on to its data. */
static int fits_header_read(fits_header *h, const zip_source *source, uint64_t *offset, char *text)
{
    char block[FITS_BLOCK];
    int blocks, at;
    fits_header_begin(h);
    for (blocks = 0; blocks < FITS_BLOCKS_MAX; blocks++) {
        if (source->size < FITS_BLOCK || *offset > source->size - FITS_BLOCK)
            return zip_fail(text, "the file is cut short within a FITS header; copy it again.");
        if (!zip_read(source, *offset, block, sizeof block, text)) return 0;
        *offset += FITS_BLOCK;
        if (!blocks && !fits_first_card(h, block, text)) return 0;
        for (at = 0; at < FITS_BLOCK; at += FITS_CARD) {
            if (!memcmp(block + at, "END     ", 8)) return fits_sizes(h, text);
            if (!fits_card(h, block + at, text)) return 0;
        }
    }
    return zip_fail(text, "its FITS header does not end.");
}

/* ---- the sky ---- */

/* The matrix from pixels to degrees; 0 if the header has none. */
static int fits_matrix(double m[2][2], const fits_header *h)
{
    int i, j;
    memcpy(m, h->matrix, sizeof h->matrix);
    if (h->has_cd) return 1;
    if (h->has_delta != 3) return 0;
    for (i = 0; i < 2; i++)
        for (j = 0; j < 2; j++) m[i][j] *= h->delta[i];
    return 1;
}

/* Where the image's centre is, by the gnomonic projection (Calabretta and Greisen 2002). */
static int fits_centre(double *ra, double *dec, const fits_header *h)
{
    const double degree = 3.14159265358979323846 / 180;
    double m[2][2], x, y, u, v, a0, d0, down;
    if (h->has_value != 3 || strcmp(h->type[0], "RA---TAN") || strcmp(h->type[1], "DEC--TAN") ||
        !fits_matrix(m, h))
        return 0;
    u = 0.5 * ((double)h->axis[1] + 1) - h->pixel[0];
    v = 0.5 * ((double)h->axis[2] + 1) - h->pixel[1];
    x = degree * (m[0][0] * u + m[0][1] * v);
    y = degree * (m[1][0] * u + m[1][1] * v);
    a0 = degree * h->value[0];
    d0 = degree * h->value[1];
    down = cos(d0) - y * sin(d0);
    *ra = fmod((a0 + atan2(x, down)) / degree + 720, 360);
    *dec = atan2(sin(d0) + y * cos(d0), sqrt(x * x + down * down)) / degree;
    return 1;
}

static void fits_sky(fits_header *h)
{
    fits_image *image = &h->image;
    double m[2][2], ra = 0, dec = 0;
    if (h->has_target == 3) {
        ra = h->target[0];
        dec = h->target[1];
    }
    if ((h->has_target == 3 || fits_centre(&ra, &dec, h)) && ra >= -360 && ra <= 720 &&
        dec >= -90 && dec <= 90) {
        image->has_sky = 1;
        image->ra = ra;
        image->dec = dec;
    }
    if (h->arcsec > 0)
        image->pixel_scale = h->arcsec;
    else if (!strncmp(h->type[0], "RA--", 4) && fits_matrix(m, h))
        image->pixel_scale = 3600 * sqrt(fabs(m[0][0] * m[1][1] - m[0][1] * m[1][0]));
    if (!(image->pixel_scale > 1e-6 && image->pixel_scale < 1e6)) image->pixel_scale = 0;
}

/* ---- the image ---- */

static int fits_refuse_unit(const fits_header *h, int unit, char *text)
{
    if (h->compressed)
        return zip_fail(
            text,
            "its image is tile-compressed (unit %d, ZIMAGE); unpack it first, with funpack "
            "or astropy",
            unit);
    if (h->groups) return zip_fail(text, "it holds random groups, not an image.");
    if (!h->is_image)
        return zip_fail(text, "its unit %d is a table (%.20s), not an image.", unit, h->kind);
    return zip_fail(text, "its unit %d holds no image (%d axes).", unit, h->image.rank);
}

/* An image's unit takes from the primary header what its own does not say. */
static void fits_inherit(fits_image *image, const fits_image *primary)
{
    if (!image->object[0]) memcpy(image->object, primary->object, sizeof image->object);
    if (image->pixel_scale == 0) image->pixel_scale = primary->pixel_scale;
    if (image->has_sky || !primary->has_sky) return;
    image->has_sky = 1;
    image->ra = primary->ra;
    image->dec = primary->dec;
}

/* Takes the unit whose header was read, if it holds an image: two axes or more, no one empty. */
static int fits_is_picture(const fits_header *h)
{
    return h->is_image && !h->compressed && !h->groups && h->image.rank >= 2 && h->bytes > 0;
}

/* Does the name of the unit, up to a '_' as in VAR_POISSON, say that it goes with an image and is none? */
static int fits_is_beside(const fits_header *h)
{
    static const char words[] =
        " err error dq wht weight wgt var variance ivar invvar mask msk rms flag "
        "flags psf noise sigma ctx con ";
    char word[FITS_WORD + 2];
    size_t i;
    word[0] = ' ';
    for (i = 0; h->name[i] && h->name[i] != '_'; i++)
        word[i + 1] =
            (char)(h->name[i] >= 'A' && h->name[i] <= 'Z' ? h->name[i] - 'A' + 'a' : h->name[i]);
    word[i + 1] = ' ';
    word[i + 2] = 0;
    return i > 0 && strstr(words, word) != NULL;
}

/* Finds the image: in unit `wanted` (0: the primary one), or (-1) in the first that has one. */
ZIP_API int fits_find(fits_image *image, const zip_source *source, int wanted, char *text)
{
    fits_header h, odd; /* odd: the first unit that looks like an image but cannot be read */
    fits_image primary;
    uint64_t offset = 0, padded;
    int unit, odd_unit = -1, beside = -1;
    memset(&primary, 0, sizeof primary);
    for (unit = 0; unit < FITS_UNITS_MAX && (unit == 0 || offset < source->size); unit++) {
        if (!fits_header_read(&h, source, &offset, text)) return 0;
        fits_sky(&h);
        if (unit == 0) primary = h.image;
        if (beside < 0 && fits_is_picture(&h) && fits_is_beside(&h)) beside = unit;
        if (unit == wanted || (wanted < 0 && fits_is_picture(&h) && !fits_is_beside(&h))) {
            if (!fits_is_picture(&h)) return fits_refuse_unit(&h, unit, text);
            if (h.bytes > source->size - offset)
                return zip_fail(text,
                                "the file is cut short: its image needs %llu bytes, %llu are "
                                "there; copy it again.",
                                (unsigned long long)h.bytes,
                                (unsigned long long)(source->size - offset));
            *image = h.image;
            image->unit = unit;
            image->offset = offset;
            fits_inherit(image, &primary);
            return 1;
        }
        if (odd_unit < 0 && (h.compressed || h.groups)) {
            odd = h;
            odd_unit = unit;
        }
        padded = (h.bytes + FITS_BLOCK - 1) / FITS_BLOCK * FITS_BLOCK;
        if (padded > source->size - offset) break;
        offset += padded;
    }
    if (wanted >= 0) return zip_fail(text, "it has no unit %d.", wanted);
    if (odd_unit >= 0) return fits_refuse_unit(&odd, odd_unit, text);
    if (beside >= 0)
        return zip_fail(
            text,
            "its images are errors, weights or masks by their names (EXTNAME); if one is "
            "meant, ask for it by its number, as in FILE[%d].",
            beside);
    return zip_fail(text, "it is a FITS file without an image (%d unit%s looked at).", unit,
                    unit == 1 ? "" : "s");
}

#endif
