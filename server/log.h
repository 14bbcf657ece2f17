/* log.h: lines for the person who runs nextd, on standard error. Under systemd each line carries its priority prefix (<3> .. <7>), which the journal
 * takes off. Any thread; a line is one write, so lines do not mix. Never logs request text, keys or headers: callers hand in facts, not payloads. */
#ifndef NEXTD_LOG_H
#define NEXTD_LOG_H

#include <stdarg.h>
#include <stdbool.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

struct log {
    int fd;
    enum log_level level; /* the least important that is written */
    bool journal;         /* priority prefixes instead of a time stamp */
};

void log_init(struct log *l, int fd, enum log_level level);
void log_error(const struct log *l, const char *format, ...) __attribute__((format(printf, 2, 3)));
void log_warn(const struct log *l, const char *format, ...) __attribute__((format(printf, 2, 3)));
void log_info(const struct log *l, const char *format, ...) __attribute__((format(printf, 2, 3)));
void log_debug(const struct log *l, const char *format, ...) __attribute__((format(printf, 2, 3)));
void log_va(const struct log *l, enum log_level level, const char *format, va_list args);

#endif
