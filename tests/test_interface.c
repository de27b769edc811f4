/* test_interface.c - what people see and type: examples/progress.h at every width of a terminal, and
 * examples/arguments.h.
 * cc -O2 -I. tests/test_interface.c -o build/test_interface -lm */
#include "examples/system.h"
#include "examples/arguments.h"
#include "examples/progress.h"
#include "test.h"

/* One line of at most columns - 1 characters, whatever there is to say; all of it on a wide terminal. */
static void check_progress(void)
{
    static const char title[] = "epoch 12/15", note[] = "loss 0.1234";
    char line[256];
    int columns, n;
    for (columns = 1; columns < 300; columns++) {
        n = progress_line(line, sizeof line, columns, title, 1234, 30000, 56.7, note);
        CHECK(n == (int)strlen(line) && n < columns && !strchr(line, '\n'));
        if (columns > 23) CHECK(strstr(line, "epoch 12/15 ") && strstr(line, "1234/30000"));
        if (columns >= 80) CHECK(strstr(line, note) && strstr(line, " left"));
        if (columns >= 70) CHECK(strchr(line, ']') - strchr(line, '[') > 10);
    }
    n = progress_line(line, sizeof line, 256, title, 30000, 30000, 56.7, note);
    CHECK(strstr(line, "[##############################]") != NULL);
    n = progress_line(line, sizeof line, 80, "images", 0, 10, 0, "");
    CHECK(!strcmp(line, "images [                              ] 0/10  0.0 images/s"));
}

static void check_distance(void)
{
    CHECK(arguments_distance("--epochs", "--epochs") == 0);
    CHECK(arguments_distance("--epoch", "--epochs") == 1);
    CHECK(arguments_distance("--epcohs", "--epochs") == 1); /* two letters swapped */
    CHECK(arguments_distance("--batsh", "--batch") == 1);
    CHECK(arguments_distance("", "--ab") == 2);
    CHECK(arguments_distance("--an-option-longer-than-twenty-four-letters", "--x") == 24);
}

/* argv is changed, so it is made anew. */
static int parse(argument *table, size_t count, const char *line)
{
    static char text[256];
    static char *words[32];
    int n = 0;
    char *at;
    snprintf(text, sizeof text, "%s", line);
    for (at = strtok(text, " "); at; at = strtok(NULL, " ")) words[n++] = at;
    return arguments_parse(table, count, "", n, words) * 100 +
           (n > 1 && words[1] ? words[1][0] : 0);
}

static void check_parse(void)
{
    argument table[] = {{"--batch", "N", "32", "", 0}, {"--csv", NULL, NULL, "", 0}};
    CHECK(parse(table, 2, "program one --batch 8 two") == 200 + 'o');
    CHECK(!strcmp(table[0].value, "8") && table[0].given && !table[1].given);
    CHECK(parse(table, 2, "program --batch=16 --csv one") == 100 + 'o');
    CHECK(!strcmp(table[0].value, "16") && !strcmp(table[1].value, "yes"));
    CHECK(parse(table, 2, "program --batch= one") == 100 + 'o' && !table[0].value[0]);
    CHECK(parse(table, 2, "program -- --batch=16") == 100 + '-');
    CHECK(parse(table, 2, "program - one") == 200 + '-');
    CHECK(arguments_flush());
}

int main(void)
{
    check_progress();
    check_distance();
    check_parse();
    return test_end();
}
