/* err.c: formats the one sentence of a failure. See err.h. */
#include "engine/err.h"

#include <stdarg.h>
#include <stdio.h>

static int err_fill(struct err *err, enum err_code code, const char *param, const char *format, va_list args)
{
    if (err == NULL)
        return -1;
    err->code = code;
    err->retry_after_s = code == ERR_BUSY || code == ERR_LOADING || code == ERR_STOPPING ? 1 : 0;
    snprintf(err->param, sizeof err->param, "%s", param);
    vsnprintf(err->msg, sizeof err->msg, format, args);
    return -1;
}

int err_set(struct err *err, enum err_code code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    err_fill(err, code, "", format, args);
    va_end(args);
    return -1;
}

int err_set_param(struct err *err, enum err_code code, const char *param, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    err_fill(err, code, param, format, args);
    va_end(args);
    return -1;
}
