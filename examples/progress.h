/* progress.h - a progress bar on stderr: redrawn in place on a terminal, now and then a line of its
 * own where stderr is a file. Include system.h first. */
#ifndef PROGRESS_H
#define PROGRESS_H

#include "system.h"

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

/* Shows `done` of `total`, with `note` behind. Cheap to call often: it draws at most ten times a second
 * on a terminal, every half minute elsewhere. */
SYSTEM_API void progress_show(progress_bar *bar, const char *title, size_t done, size_t total,
                              const char *note)
{
    static const char full[] = "##############################";
    static const char empty[] = "                              ";
    double now = system_seconds(), rate = progress_rate(bar, done);
    int cells = total ? (int)(30.0 * (double)done / (double)total) : 30, length;
    char left[24], line[256];
    if (now - bar->shown < (bar->terminal ? 0.1 : 30.0)) return;
    bar->shown = now;
    system_duration(left, rate > 0 ? (double)(total - done) / rate : 0);
    length = snprintf(line, sizeof line, "%s [%.*s%.*s] %zu/%zu  %.1f images/s  %s%s%s", title,
                      cells, full, 30 - cells, empty, done, total, rate, rate > 0 ? left : "",
                      rate > 0 ? " left  " : "", note);
    if (length > (int)sizeof line - 1) length = (int)sizeof line - 1;
    if (bar->terminal) {
        fprintf(stderr, "\r%s%*s", line, bar->width > length ? bar->width - length : 0, "");
        bar->width = length;
    } else {
        fprintf(stderr, "%s\n", line);
    }
    fflush(stderr);
}

/* Wipes the bar, so that other lines can be printed. */
SYSTEM_API void progress_end(progress_bar *bar)
{
    if (bar->terminal && bar->width) fprintf(stderr, "\r%*s\r", bar->width, "");
    bar->width = 0;
}

#endif
