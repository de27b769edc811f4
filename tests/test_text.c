/* test_text.c - examples/text.h: names from strangers, made safe for terminal, CSV, JSON and XML.
 * cc -O2 -I. tests/test_text.c -o build/test_text -lm */
#include "examples/text.h"
#include "test.h"

#include <stdint.h>

static void check(const char *text, const char *terminal, const char *csv, const char *json,
                  const char *xml)
{
    const char *expected[4];
    int kind;
    expected[TEXT_TERMINAL] = terminal;
    expected[TEXT_CSV] = csv;
    expected[TEXT_JSON] = json;
    expected[TEXT_XML] = xml;
    for (kind = 0; kind < 4; kind++) {
        char out[128], *copy = text_clean_copy(text, (text_kind)kind);
        size_t length = text_clean(out, sizeof out, text, (text_kind)kind);
        test_check(!strcmp(out, expected[kind]) && length == strlen(out), expected[kind], out,
                   kind);
        CHECK(copy && !strcmp(copy, out));
        free(copy);
    }
    CHECK_CLOSE((double)text_columns(terminal), (double)text_columns(text), 0, terminal);
}

/* Every byte and every pair of bytes: what comes out is printable ASCII or whole characters. */
static void check_all_bytes(void)
{
    int a, b, kind, wrong = 0;
    for (a = 1; a < 256; a++)
        for (b = 0; b < 256; b++)
            for (kind = 0; kind < 4; kind++) {
                char text[3], out[64];
                const char *at = out;
                text[0] = (char)a;
                text[1] = (char)b;
                text[2] = 0;
                text_clean(out, sizeof out, text, (text_kind)kind);
                while (*at) {
                    long c;
                    at += text_decode(&c, at);
                    wrong += c < 0x20 || (c >= 0x7f && c < 0xa0);
                }
            }
    CHECK(wrong == 0);
}

/* Cut between characters and never within an escape. */
static void check_cut(void)
{
    char out[64];
    size_t room;
    const char *text = "a\xc3\xa9\x1b<z";
    for (room = 0; room < 16; room++) {
        memset(out, 'Q', sizeof out);
        CHECK(text_clean(out, room, text, TEXT_XML) == 1 + 2 + 4 + 4 + 1);
        CHECK(room == 0 ? out[0] == 'Q' : strlen(out) < room && out[room] == 'Q');
    }
    text_clean(out, 3, text, TEXT_XML);
    CHECK(!strcmp(out, "a"));
    text_clean(out, 10, text, TEXT_XML);
    CHECK(!strcmp(out, "a\xc3\xa9\\x1b"));
}

/* A line cut into fields, joined by | again. */
static void check_fields(const char *line, const char *expected)
{
    char copy[128], joined[256] = "", *fields[8];
    size_t i, count;
    snprintf(copy, sizeof copy, "%s", line);
    count = text_fields(fields, 8, copy);
    for (i = 0; i < count; i++)
        snprintf(joined + strlen(joined), sizeof joined - strlen(joined), "%s%s", i ? "|" : "",
                 fields[i]);
    test_check(!strcmp(joined, expected), joined, expected, (int)count);
}

/* What is written as CSV comes back, whatever it is; and random lines stay inside their bytes. */
static void check_fields_of_anything(void)
{
    static const char signs[] = "\",,, ab\"\\\xff'=";
    uint64_t state = 1;
    int round, i;
    for (round = 0; round < 20000; round++) {
        char *line = (char *)malloc(13), *fields[4];
        size_t length = 0, count, k;
        CHECK(line != NULL);
        for (i = 0; line && i < 12; i++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            line[length++] = signs[(state >> 33) % (sizeof signs - 1)];
        }
        line[length] = 0;
        count = text_fields(fields, 4, line);
        CHECK(count >= 1 && count <= 4);
        for (k = 0; k < count; k++)
            CHECK(fields[k] >= line && fields[k] + strlen(fields[k]) <= line + 12);
        free(line);
    }
}

int main(void)
{
    check_fields("a,b,c", "a|b|c");
    check_fields("", "");
    check_fields(",", "|");
    check_fields("\"G, 1\", 149.5 ,-2,\"say \"\"hi\"\"\"", "G, 1|149.5 |-2|say \"hi\"");
    check_fields("\"open, to the end", "open, to the end");
    check_fields("\"a\"junk,b", "a|b");
    check_fields("1,2,3,4,5,6,7,8,9", "1|2|3|4|5|6|7|8");
    check_fields_of_anything();
    check("plain name.npy", "plain name.npy", "plain name.npy", "\"plain name.npy\"",
          "plain name.npy");
    check("", "", "", "\"\"", "");
    check("a\x1b[31mred", "a\\x1b[31mred", "a\\x1b[31mred", "\"a\\u001b[31mred\"", "a\\x1b[31mred");
    check("two\nlines\r\t", "two\\nlines\\r\\t", "two\\nlines\\r\\t", "\"two\\nlines\\r\\t\"",
          "two\\nlines\\r\\t");
    check("x,\"y\"", "x,\"y\"", "\"x,\"\"y\"\"\"", "\"x,\\\"y\\\"\"", "x,&quot;y&quot;");
    check("<b a='1'>&", "<b a='1'>&", "<b a='1'>&", "\"<b a='1'>&\"",
          "&lt;b a=&#39;1&#39;&gt;&amp;");
    check("=cmd|'x'!A1", "=cmd|'x'!A1", "'=cmd|'x'!A1", "\"=cmd|'x'!A1\"", "=cmd|&#39;x&#39;!A1");
    check("back\\slash", "back\\slash", "back\\slash", "\"back\\\\slash\"", "back\\slash");
    check("\xff\xc3", "\\xff\\xc3", "\\xff\\xc3", "\"\\\\xff\\\\xc3\"", "\\xff\\xc3");
    check("\xc0\xaf", "\\xc0\\xaf", "\\xc0\\xaf", "\"\\\\xc0\\\\xaf\"",
          "\\xc0\\xaf"); /* overlong */
    check("\xed\xa0\x80", "\\xed\\xa0\\x80", "\\xed\\xa0\\x80", "\"\\\\xed\\\\xa0\\\\x80\"",
          "\\xed\\xa0\\x80"); /* a surrogate */
    check("gal\xc3\xa1xia \xe6\x98\x9f", "gal\xc3\xa1xia \xe6\x98\x9f",
          "gal\xc3\xa1xia \xe6\x98\x9f", "\"gal\xc3\xa1xia \xe6\x98\x9f\"",
          "gal\xc3\xa1xia \xe6\x98\x9f");
    check("\xe2\x80\xaegpj.npy", "\\u202egpj.npy", "\\u202egpj.npy", "\"\\u202egpj.npy\"",
          "\\u202egpj.npy"); /* from right to left */
    check("\xc2\x9b"
          "31m",
          "\\u009b31m", "\\u009b31m", "\"\\u009b31m\"", "\\u009b31m");
    check("\xf3\xa0\x80\xa1", "\\ue0021", "\\ue0021", "\"\\udb40\\udc21\"", "\\ue0021");
    check_all_bytes();
    check_cut();
    return test_end();
}
