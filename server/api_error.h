/* api_error.h: the one table from our errors to HTTP statuses and OpenAI error objects. */
#ifndef NEXTD_API_ERROR_H
#define NEXTD_API_ERROR_H

#include "engine/err.h"
#include "server/buf.h"

/* HTTP status of an error code. */
int api_error_status(const struct err *err);
/* Its `code`, or "invalid_request" and the like where OpenAI has none. */
const char *api_error_name(const struct err *err);

/* Appends {"error":{"message":...,"type":...,"param":...,"code":...}}. Bytes of the message that are no UTF-8 become U+FFFD. */
void api_error_body(struct buf *out, const struct err *err);

/* The same for faults that only HTTP knows (401, 404, 405, 413, 415 ...): code may be NULL. */
void api_error_body_for(struct buf *out, int status, const char *code, const char *param, const char *message);

#endif
