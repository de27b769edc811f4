/* progress.h - a progress bar on stderr: redrawn in place on a terminal, now and then a line of its
 * own where stderr is a file. Include system.h first. */
#ifndef PROGRESS_H
#define PROGRESS_H

#include "system.h"

#ifdef __unix__
#include <sys/ioctl.h>
#endif

typedef struct progress_bar {
    int terminal;
    double shown;   /* when it was drawn last */
    double started; /* when the current piece of work began */
    size_t first;   /* how much of it was done then */
    int width;      /* characters on the line now */
} progress_bar;

/* Begins a piece of work of which `done` is done already. */
SYSTEM_API void progress_start(progress_bar *bar, size_t done)
{
    bar->terminal = system_is_terminal(stderr);
    bar->started = system_seconds();
    bar->shown = bar->started - (bar->terminal ? 1 : 20);
    bar->first = done;
    bar->width = 0;
}

/* Things per second since the start. */
SYSTEM_API double progress_rate(const progress_bar *bar, size_t done)
{
    double seconds = system_seconds() - bar->started;
    return seconds > 0 ? (double)(done - bar->first) / seconds : 0;
}

/* Columns that a line may have: the terminal's, as they are now. */
static int progress_columns(FILE *file)
{
    const char *said = getenv("COLUMNS");
    int columns = said ? atoi(said) : 0;
#ifdef TIOCGWINSZ
    struct winsize size;
    if (ioctl(fileno(file), TIOCGWINSZ, &size) == 0 && size.ws_col) columns = size.ws_col;
#else
    (void)file;
#endif
    return columns > 0 ? columns : 80;
}

/* Prints the first of the forms of a line, long to short, that the terminal has room for, else the last; the
 * first where stdout is no terminal. */
SYSTEM_API void progress_print_fitting(const char *const *forms, int count)
{
    int i = 0;
    while (i + 1 < count && system_is_terminal(stdout) &&
           (int)strlen(forms[i]) >= progress_columns(stdout))
        i++;
    puts(forms[i]);
}

/* Leaves out a part that there is no room for. */
static void progress_drop(char *part, int *spare)
{
    if (*spare < (int)strlen(part)) part[0] = 0;
    *spare -= (int)strlen(part);
}

/* Makes the line of what fits into `columns`: title and count, then as far as there is room the time, the
 * note, ten of the bar's cells, the speed, and more cells. */
static int progress_line(char *line, size_t room, int columns, const char *title, size_t done,
                         size_t total, double rate, const char *note)
{
    static const char full[] = "##############################";
    static const char empty[] = "                              ";
    char left[24], count[48], speed[40] = "", time[40] = "";
    const int least = 3 + 10; /* brackets and cells */
    int cells = 30, spare, filled, n;
    snprintf(count, sizeof count, "%zu/%zu", done, total);
    snprintf(speed, sizeof speed, "  %.1f images/s", rate);
    if (rate > 0)
        snprintf(time, sizeof time, "  %s left",
                 system_duration(left, (double)(total - done) / rate));
    if (columns > (int)room) columns = (int)room;
    spare = columns - 1 - (int)(strlen(title) + 1 + strlen(count));
    progress_drop(time, &spare);
    if (spare < 2 + (int)strlen(note)) note = "";
    if (*note) spare -= 2 + (int)strlen(note);
    spare -= least;
    progress_drop(speed, &spare);
    spare += least;
    if (spare < 3 + cells) cells = spare - 3;
    if (cells < 4) cells = 0;
    filled = total ? (int)((double)cells * (double)done / (double)total) : cells;
    n = snprintf(line, room, "%s%s%.*s%.*s%s %s%s%s%s%s", title, cells ? " [" : "", filled, full,
                 cells - filled, empty, cells ? "]" : "", count, speed, time, *note ? "  " : "",
                 note);
    if (n > columns - 1) n = columns - 1; /* a narrow terminal's first line is better than two */
    if (n < 0) n = 0;
    line[n] = 0;
    return n;
}

/* Shows `done` of `total`, with `note` behind. Cheap to call often: it draws at most ten times a second
 * on a terminal, every half minute elsewhere. On a terminal it takes one line, however narrow. */
SYSTEM_API void progress_show(progress_bar *bar, const char *title, size_t done, size_t total,
                              const char *note)
{
    double now = system_seconds();
    int length, columns;
    char line[256];
    if (now - bar->shown < (bar->terminal ? 0.1 : 30.0)) return;
    bar->shown = now;
    columns = bar->terminal ? progress_columns(stderr) : (int)sizeof line;
    length = progress_line(line, sizeof line, columns, title, done, total, progress_rate(bar, done),
                           note);
    if (bar->terminal) {
        int old =
            bar->width < columns ? bar->width : columns - 1; /* it may be narrower than it was */
        fprintf(stderr, "\r%s%*s", line, old > length ? old - length : 0, "");
        bar->width = length;
    } else {
        fprintf(stderr, "%s\n", line);
    }
    fflush(stderr);
}

/* Wipes the bar, so that other lines can be printed. */
SYSTEM_API void progress_end(progress_bar *bar)
{
    int columns = bar->terminal ? progress_columns(stderr) : 0;
    if (bar->terminal && bar->width)
        fprintf(stderr, "\r%*s\r", bar->width < columns ? bar->width : columns - 1, "");
    bar->width = 0;
}

#endif
