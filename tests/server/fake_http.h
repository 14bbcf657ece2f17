/* fake_http.h: HTTP without sockets. A test makes an exchange, hands it to the callbacks, and looks at what was answered. Included by exactly one
 * file of a test program. */
#ifndef NEXTD_TESTS_FAKE_HTTP_H
#define NEXTD_TESTS_FAKE_HTTP_H

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "server/buf.h"
#include "server/http.h"

struct http_exchange {
    const char *method, *path;
    const char *const *headers; /* name, value, ..., NULL */
    uint64_t content_length;
    void *user;
    bool accepted, closed;

    int status; /* 0: nothing yet */
    int n_replies;
    bool streaming, ended;
    bool full;      /* http_stream_send says: no more */
    struct buf body;
    char reply_headers[2048]; /* "Name: value\n" each */
};

static struct http_exchange *fake_exchange(const char *method, const char *path, const char *const *headers)
{
    struct http_exchange *x = calloc(1, sizeof *x);
    x->method = method;
    x->path = path;
    x->headers = headers;
    buf_init(&x->body, 1u << 30);
    return x;
}

static void fake_exchange_free(struct http_exchange *x)
{
    buf_finish(&x->body);
    free(x);
}

const char *http_method(const struct http_exchange *x)
{
    return x->method;
}

const char *http_path(const struct http_exchange *x)
{
    return x->path;
}

const char *http_request_header(const struct http_exchange *x, const char *name)
{
    for (size_t i = 0; x->headers != NULL && x->headers[i] != NULL; i += 2)
        if (strcasecmp(x->headers[i], name) == 0)
            return x->headers[i + 1];
    return NULL;
}

uint64_t http_content_length(const struct http_exchange *x)
{
    return x->content_length;
}

void *http_user(const struct http_exchange *x)
{
    return x->user;
}

size_t http_n_connections(const struct http *h)
{
    (void)h;
    return 1;
}

static void fake_http_head(struct http_exchange *x, int status, const char *type, const struct http_header *headers, int n)
{
    size_t at = 0;
    assert(x->status == 0 && !x->closed);
    x->status = status;
    x->n_replies++;
    if (type != NULL)
        at += (size_t)snprintf(x->reply_headers, sizeof x->reply_headers, "Content-Type: %s\n", type);
    for (int i = 0; i < n; i++)
        at += (size_t)snprintf(x->reply_headers + at, sizeof x->reply_headers - at, "%s: %s\n", headers[i].name, headers[i].value);
    assert(at < sizeof x->reply_headers);
}

void http_reply(struct http_exchange *x, int status, const char *content_type, const char *body, size_t n, const struct http_header *headers,
                int n_headers)
{
    fake_http_head(x, status, content_type, headers, n_headers);
    buf_append(&x->body, body, n);
    x->ended = true;
}

void http_stream_begin(struct http_exchange *x, int status, const char *content_type, const struct http_header *headers, int n_headers)
{
    fake_http_head(x, status, content_type, headers, n_headers);
    x->streaming = true;
}

bool http_stream_send(struct http_exchange *x, const char *bytes, size_t n)
{
    assert(x->streaming && !x->ended && !x->closed);
    buf_append(&x->body, bytes, n);
    return !x->full;
}

void http_stream_end(struct http_exchange *x)
{
    assert(x->streaming && !x->ended && !x->closed);
    x->ended = true;
}

bool http_response_begun(const struct http_exchange *x)
{
    return x->status != 0;
}

#endif
