/* err.h: how a function says that it could not do what was asked.
 *
 * A fallible function takes `struct err *err` as its last argument and returns 0, or -1 with *err filled where the fact is known. The
 * message is one whole sentence without a full stop, fit to be shown to a user: "prompt is 9000 tokens; the context holds 8192". Outputs are
 * untouched on failure. User error and outside trouble are `err`; our own bug is `assert`. Nobody below server/ logs or exits.
 * server/ holds the one table from code to HTTP status and OpenAI error type. */
#ifndef NEXTD_ERR_H
#define NEXTD_ERR_H

enum err_code {
    ERR_NONE = 0,
    ERR_INVALID,     /* the request is wrong; `param` may name the field */
    ERR_CONTEXT,     /* the request can never fit in the context or the pool; the message holds the numbers */
    ERR_BUSY,        /* the queue is full; try again after retry_after_s */
    ERR_LOADING,     /* the model is not ready yet */
    ERR_STOPPING,    /* the server drains and takes no new request */
    ERR_NOT_FOUND,   /* no model, route or device of that name */
    ERR_UNSUPPORTED, /* a known thing that nextd does not do; the message names it and what works */
    ERR_FORMAT,      /* a file is malformed */
    ERR_IO,          /* the operating system said no; the message holds its words */
    ERR_NOMEM,       /* memory could not be had */
    ERR_DEVICE       /* the backend failed; sticky, the engine ends */
};

struct err {
    enum err_code code;
    int retry_after_s; /* with ERR_BUSY, ERR_LOADING and ERR_STOPPING: at least 1 */
    char param[96];    /* JSON path or option that is at fault, or "" */
    char msg[400];
};

/* Fills *err (which may be NULL) with a formatted sentence and an empty param. Returns -1, so that `return err_set(...)` reads well. */
int err_set(struct err *err, enum err_code code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* The same, naming the field at fault: err_set_param(err, ERR_INVALID, "stop[3]", "stop[3] is 300 bytes; the limit is 256"). */
int err_set_param(struct err *err, enum err_code code, const char *param, const char *format, ...) __attribute__((format(printf, 4, 5)));

#endif
