/* failure.h - fills a lensnet_error. Include lensnet.h first. */
#ifndef FAILURE_H
#define FAILURE_H

#include <stdarg.h>
#include <stdio.h>

#ifndef LENSNET_H
#error "failure.h: include lensnet.h first"
#endif

#ifdef __GNUC__
#define FAILURE_API                 __attribute__((unused)) static
#define FAILURE_PRINTF(text, first) __attribute__((format(printf, text, first)))
#else
#define FAILURE_API static
#define FAILURE_PRINTF(text, first)
#endif

/* Sets `error` (NULL: nobody asks) and returns `code`. */
FAILURE_API lensnet_result failure_list(lensnet_error *error, lensnet_result code,
                                        const char *format, va_list values)
{
    if (!error) return code;
    error->code = code;
    vsnprintf(error->text, sizeof error->text, format, values);
    return code;
}

FAILURE_API FAILURE_PRINTF(3, 4) lensnet_result
    failure(lensnet_error *error, lensnet_result code, const char *format, ...)
{
    va_list values;
    va_start(values, format);
    (void)failure_list(error, code, format, values);
    va_end(values);
    return code;
}

#endif
