/* log.c: formats a line, one write. See log.h. */
#include "server/log.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LOG_LINE_BYTES 1024

/* The journal's end of a stream is a socket; everything else (terminal, file, pipe) gets times. */
void log_init(struct log *l, int fd, enum log_level level)
{
    struct stat st;
    *l = (struct log){.fd = fd, .level = level, .journal = fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode)};
}

static size_t log_prefix(const struct log *l, enum log_level level, char *line, size_t max)
{
    static const char *const names[] = {"error", "warn ", "info ", "debug"};
    static const int priorities[] = {3, 4, 6, 7};
    if (l->journal)
        return (size_t)snprintf(line, max, "<%d>", priorities[level]);
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    size_t n = strftime(line, max, "%Y-%m-%dT%H:%M:%S", &tm);
    return n + (size_t)snprintf(line + n, max - n, ".%03ldZ %s ", now.tv_nsec / 1000000, names[level]);
}

void log_va(const struct log *l, enum log_level level, const char *format, va_list args)
{
    if (level > l->level)
        return;
    char line[LOG_LINE_BYTES];
    size_t n = log_prefix(l, level, line, sizeof line);
    int text = vsnprintf(line + n, sizeof line - n - 1, format, args);
    if (text < 0)
        return;
    size_t room = sizeof line - n - 2;
    size_t end = n + ((size_t)text < room ? (size_t)text : room);
    for (size_t i = n; i < end; i++) /* what a client sent cannot forge a line or move the cursor */
        if ((unsigned char)line[i] < ' ' || line[i] == 0x7f)
            line[i] = '?';
    line[end++] = '\n';
    ssize_t written = write(l->fd, line, end);
    (void)written; /* nobody is left to tell */
}

void log_error(const struct log *l, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    log_va(l, LOG_LEVEL_ERROR, format, args);
    va_end(args);
}

void log_warn(const struct log *l, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    log_va(l, LOG_LEVEL_WARN, format, args);
    va_end(args);
}

void log_info(const struct log *l, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    log_va(l, LOG_LEVEL_INFO, format, args);
    va_end(args);
}

void log_debug(const struct log *l, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    log_va(l, LOG_LEVEL_DEBUG, format, args);
    va_end(args);
}
