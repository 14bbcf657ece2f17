/* buf.h: growable bytes with a maximum, so that no buffer grows without bound. Errors stick: after a failed append every later one fails and
 * `failed` stays true, so a caller may check once at the end. Not thread-safe. */
#ifndef NEXTD_BUF_H
#define NEXTD_BUF_H

#include <stdbool.h>
#include <stddef.h>

struct buf {
    char *p; /* NUL-terminated once anything was appended */
    size_t n, cap, max;
    bool failed;
};

void buf_init(struct buf *b, size_t max_bytes);
void buf_finish(struct buf *b);
void buf_clear(struct buf *b); /* empties, keeps the memory, forgets a failure */
bool buf_append(struct buf *b, const void *p, size_t n);
bool buf_puts(struct buf *b, const char *s);
bool buf_printf(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Appends the n bytes of valid UTF-8 as the inside of a JSON string. */
bool buf_json_escape(struct buf *b, const char *p, size_t n);

#endif
