/* options.h: everything a user can set, from one table.
 *
 * Each option has one row in options.c: name, section, type, default, limits, help. The row makes the flag (--max-seqs), the key in the INI file
 * ([engine] max_seqs) and the environment variable (NEXTD_MAX_SEQS). Precedence: flag, environment, file, default. A name that the table does not
 * know is an error that says where it stands. No other file of nextd reads the environment. Loaded once by one thread, then constant. */
#ifndef NEXTD_OPTIONS_H
#define NEXTD_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "engine/err.h"
#include "server/arena.h"

enum options_scope { OPTIONS_SCOPE_KEY, OPTIONS_SCOPE_SERVER };
enum options_unknown { OPTIONS_UNKNOWN_REJECT, OPTIONS_UNKNOWN_IGNORE };
enum options_log { OPTIONS_LOG_ERROR, OPTIONS_LOG_WARN, OPTIONS_LOG_INFO, OPTIONS_LOG_DEBUG };

/* Strings are "" where nothing was set; lists end with NULL and are never NULL themselves. */
struct options {
    const char *config;

    const char *model;
    const char *alias;         /* the model's name in the API; "": the file's stem */
    const char *chat_template; /* path of a Jinja file that replaces the model's own */

    const char *host; /* "": no TCP */
    int port;         /* 0: any free one */
    const char *unix_path;
    const char *tls_cert, *tls_key; /* PEM files */
    const char *api_keys;           /* file */
    bool insecure;                  /* serve beyond loopback without keys */
    const char *const *allowed_hosts;
    const char *const *cors_origins; /* may hold "*" */

    const char *device;
    int threads, ctx, kv_tokens; /* 0: from the machine */
    int max_seqs, queue, chunk;
    bool prefix_cache;
    enum options_scope prefix_cache_scope;

    enum options_unknown unknown_fields;
    int max_n, max_prompts, max_stops, max_stop_bytes, max_bias;
    int json_depth, json_nodes;
    int keepalive_s; /* SSE comment after so long without an event; 0: none */

    int max_connections;
    size_t max_body_bytes, max_header_bytes;
    int idle_timeout_s, request_timeout_s, write_stall_s, drain_timeout_s;

    enum options_log log_level;

    struct arena text; /* owns the strings and lists */
};

/* What the table says of one option, for help, tests and messages. */
struct options_row {
    const char *name;    /* key in the file: "max_seqs" */
    const char *section; /* "engine" */
    const char *fallback;
    char values[64];     /* what may be given: "1 .. 1024", "on|off", "FILE" */
    const char *help;
};

/* Reads argv[1 ..] (argv[0] is skipped), then envp, then the file that either names. On failure *out is untouched and err names the place:
 * "nextd.conf:12: unknown key 'prot' in [listen]". */
int options_load(int argc, char *const *argv, char *const *envp, struct options *out, struct err *err);
void options_finish(struct options *o);

/* The table, row by row: false when i is beyond its end. */
bool options_row(size_t i, struct options_row *out);
/* Writes the list of flags for --help. */
void options_help(FILE *to);

#endif
