/* options.c: the table, and the three readers that fill it: flags, environment, INI file.
 *
 * All three hand (row, text, place) to one setter, which parses by the row's type and puts the value at the row's offset. A mark per row remembers
 * how strongly it was set, so that the file, read last because a flag may name it, cannot override a flag. The flags have a parser of their own
 * rather than getopt_long, which cannot say what an unknown flag was called in a sentence and would need the table copied into its own form. */
#include "server/options.h"

#include <errno.h>
#include <ini.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum options_type { OPTIONS_TEXT, OPTIONS_INT, OPTIONS_BYTES, OPTIONS_BOOL, OPTIONS_CHOICE, OPTIONS_LIST };
enum options_rank { OPTIONS_BY_DEFAULT, OPTIONS_BY_FILE, OPTIONS_BY_ENV, OPTIONS_BY_FLAG };

#define OPTIONS_MAX_ROWS 64
#define OPTIONS_MAX_LIST 64
#define OPTIONS_TEXT_BYTES ((size_t)1 << 20)

struct options_entry {
    const char *section, *name;
    enum options_type type;
    size_t offset;
    const char *fallback;
    int64_t min, max;
    const char *values; /* CHOICE: "a|b|c", in the order of the enum; TEXT and LIST: what the help shows */
    const char *help;
};

#define AT(field) offsetof(struct options, field)

static const struct options_entry table[] = {
    {"", "config", OPTIONS_TEXT, AT(config), "", 0, 0, "FILE", "INI file to read"},

    {"model", "model", OPTIONS_TEXT, AT(model), "", 0, 0, "FILE", "GGUF file to serve"},
    {"model", "alias", OPTIONS_TEXT, AT(alias), "", 0, 0, "NAME", "the model's name in the API (the file's stem)"},
    {"model", "chat_template", OPTIONS_TEXT, AT(chat_template), "", 0, 0, "FILE", "Jinja chat template instead of the model's own"},

    {"listen", "host", OPTIONS_TEXT, AT(host), "127.0.0.1", 0, 0, "ADDRESS", "TCP address; empty: no TCP"},
    {"listen", "port", OPTIONS_INT, AT(port), "8080", 0, 65535, NULL, "TCP port; 0: any free one"},
    {"listen", "unix", OPTIONS_TEXT, AT(unix_path), "", 0, 0, "PATH", "also listen on this unix socket"},
    {"listen", "tls_cert", OPTIONS_TEXT, AT(tls_cert), "", 0, 0, "FILE", "PEM certificate chain; makes TCP speak TLS"},
    {"listen", "tls_key", OPTIONS_TEXT, AT(tls_key), "", 0, 0, "FILE", "PEM private key of the certificate"},
    {"listen", "api_keys", OPTIONS_TEXT, AT(api_keys), "", 0, 0, "FILE", "API keys, one a line; without: no authentication"},
    {"listen", "insecure", OPTIONS_BOOL, AT(insecure), "off", 0, 0, NULL, "serve beyond this machine without API keys"},
    {"listen", "allowed_hosts", OPTIONS_LIST, AT(allowed_hosts), "", 0, 0, "NAME,...", "Host names taken on loopback besides local ones"},
    {"listen", "cors_origins", OPTIONS_LIST, AT(cors_origins), "", 0, 0, "ORIGIN,...", "web origins whose pages may call; *: any"},

    {"engine", "device", OPTIONS_TEXT, AT(device), "auto", 0, 0, "NAME", "where to compute: auto, cpu, cuda:0"},
    {"engine", "threads", OPTIONS_INT, AT(threads), "0", 0, 1024, NULL, "compute threads; 0: one per physical core"},
    {"engine", "ctx", OPTIONS_INT, AT(ctx), "0", 0, 1 << 24, NULL, "context of a sequence, tokens; 0: as trained"},
    {"engine", "kv_tokens", OPTIONS_INT, AT(kv_tokens), "0", 0, 1 << 28, NULL, "shared KV pool, tokens; 0: from the memory"},
    {"engine", "max_seqs", OPTIONS_INT, AT(max_seqs), "64", 1, 1024, NULL, "sequences that run at once"},
    {"engine", "queue", OPTIONS_INT, AT(queue), "256", 0, 65536, NULL, "sequences that may wait; more get 429"},
    {"engine", "chunk", OPTIONS_INT, AT(chunk), "128", 1, 8192, NULL, "prompt tokens of all sequences in one step"},
    {"engine", "prefix_cache", OPTIONS_BOOL, AT(prefix_cache), "on", 0, 0, NULL, "keep and share the KV pages of common prefixes"},
    {"engine", "prefix_cache_scope", OPTIONS_CHOICE, AT(prefix_cache_scope), "key", 0, 0, "key|server", "who shares prefixes"},

    {"api", "unknown_fields", OPTIONS_CHOICE, AT(unknown_fields), "reject", 0, 0, "reject|ignore", "request fields that nextd does not know"},
    {"api", "max_n", OPTIONS_INT, AT(max_n), "64", 1, 64, NULL, "choices of one prompt"},
    {"api", "max_prompts", OPTIONS_INT, AT(max_prompts), "128", 1, 1024, NULL, "prompts of one request"},
    {"api", "max_stops", OPTIONS_INT, AT(max_stops), "16", 1, 16, NULL, "stop strings of one request"},
    {"api", "max_stop_bytes", OPTIONS_INT, AT(max_stop_bytes), "256", 1, 256, NULL, "bytes of one stop string"},
    {"api", "max_bias", OPTIONS_INT, AT(max_bias), "1024", 0, 1024, NULL, "logit_bias entries of one request"},
    {"api", "json_depth", OPTIONS_INT, AT(json_depth), "64", 8, 512, NULL, "nesting of a request body"},
    {"api", "json_nodes", OPTIONS_INT, AT(json_nodes), "1000000", 100, 10000000, NULL, "values in a request body"},
    {"api", "keepalive_s", OPTIONS_INT, AT(keepalive_s), "15", 0, 3600, NULL, "comment on a silent stream after so long; 0: none"},

    {"limits", "max_connections", OPTIONS_INT, AT(max_connections), "1024", 1, 65536, NULL, "open connections per listener; more wait"},
    {"limits", "max_body_bytes", OPTIONS_BYTES, AT(max_body_bytes), "4M", 1024, 1 << 30, NULL, "largest request body"},
    {"limits", "max_header_bytes", OPTIONS_BYTES, AT(max_header_bytes), "16K", 4096, 1 << 20, NULL, "largest request head"},
    {"limits", "idle_timeout_s", OPTIONS_INT, AT(idle_timeout_s), "75", 1, 86400, NULL, "silence before a kept connection is closed"},
    {"limits", "request_timeout_s", OPTIONS_INT, AT(request_timeout_s), "30", 1, 3600, NULL, "time for a whole request to arrive"},
    {"limits", "write_stall_s", OPTIONS_INT, AT(write_stall_s), "30", 1, 3600, NULL, "a stream that takes nothing so long is cancelled"},
    {"limits", "drain_timeout_s", OPTIONS_INT, AT(drain_timeout_s), "30", 0, 3600, NULL, "time for running requests after SIGTERM"},

    {"log", "log_level", OPTIONS_CHOICE, AT(log_level), "info", 0, 0, "error|warn|info|debug", "how much is logged"},
};
#define N_ROWS (sizeof table / sizeof table[0])
_Static_assert(N_ROWS <= OPTIONS_MAX_ROWS, "a mark per row");

/* Variables that only the scripts and tests read; they may stand in the environment of the daemon. */
static const char *const foreign_env[] = {"NEXTD_CACHE", "NEXTD_ROOT", "NEXTD_BINARY", "NEXTD_TEST_BINARY", "NEXTD_TEST_FULL", NULL};

struct options_reader {
    struct options o;
    enum options_rank rank[OPTIONS_MAX_ROWS];
    struct err err; /* the first thing that went wrong; code ERR_NONE: nothing yet */
    /* the INI file */
    const char *path;
    FILE *file;
    int line;
};

/* ---- one value ---- */

static bool options_parse_int(const char *text, bool with_unit, int64_t *out)
{
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (end == text || errno != 0)
        return false;
    int shift = !with_unit ? 0 : *end == 'K' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0;
    end += shift > 0;
    if (*end != '\0' || v > INT64_MAX >> shift || v < 0)
        return false;
    *out = (int64_t)v << shift;
    return true;
}

static bool options_parse_bool(const char *text, bool *out)
{
    static const char *const yes[] = {"on", "true", "yes", "1"}, *const no[] = {"off", "false", "no", "0"};
    for (size_t i = 0; i < 4; i++) {
        if (strcmp(text, yes[i]) == 0 || strcmp(text, no[i]) == 0) {
            *out = strcmp(text, yes[i]) == 0;
            return true;
        }
    }
    return false;
}

/* Position of text in "a|b|c", or -1. */
static int options_parse_choice(const char *text, const char *values)
{
    size_t n = strlen(text);
    int i = 0;
    for (const char *p = values; p != NULL && n > 0; i++) {
        const char *bar = strchr(p, '|');
        if ((bar == NULL ? strlen(p) : (size_t)(bar - p)) == n && memcmp(p, text, n) == 0)
            return i;
        p = bar == NULL ? NULL : bar + 1;
    }
    return -1;
}

/* "a, b" -> {"a", "b", NULL}; NULL when there are too many. */
static const char **options_parse_list(struct arena *a, const char *text)
{
    const char **list = arena_alloc(a, (OPTIONS_MAX_LIST + 1) * sizeof *list);
    char *copy = arena_copy(a, text, strlen(text));
    if (list == NULL || copy == NULL)
        return NULL;
    size_t n = 0;
    char *rest = NULL;
    for (char *p = strtok_r(copy, ", \t", &rest); p != NULL; p = strtok_r(NULL, ", \t", &rest)) {
        if (n == OPTIONS_MAX_LIST)
            return NULL;
        list[n++] = p;
    }
    list[n] = NULL;
    return list;
}

/* What may be given, in words. */
static void options_range(const struct options_entry *e, char *out, size_t n)
{
    if (e->type == OPTIONS_INT || e->type == OPTIONS_BYTES)
        snprintf(out, n, "%lld .. %lld", (long long)e->min, (long long)e->max);
    else
        snprintf(out, n, "%s", e->type == OPTIONS_BOOL ? "on|off" : e->values);
}

/* Puts text into the option, unless a stronger place has already set it. `place` begins the message: "--port", "nextd.conf:3: port". */
static bool options_set(struct options_reader *r, size_t row, enum options_rank rank, const char *text, const char *place)
{
    const struct options_entry *e = &table[row];
    char *at = (char *)&r->o + e->offset;
    bool store = rank >= r->rank[row];
    int64_t number = 0;
    bool yes = false;
    int choice = 0;
    bool ok = true;
    switch (e->type) {
    case OPTIONS_TEXT: {
        const char *copy = arena_copy(&r->o.text, text, strlen(text));
        ok = copy != NULL;
        if (ok && store)
            memcpy(at, &copy, sizeof copy);
        break;
    }
    case OPTIONS_LIST: {
        const char **list = options_parse_list(&r->o.text, text);
        ok = list != NULL;
        if (ok && store)
            memcpy(at, &list, sizeof list);
        break;
    }
    case OPTIONS_INT:
    case OPTIONS_BYTES:
        ok = options_parse_int(text, e->type == OPTIONS_BYTES, &number) && number >= e->min && number <= e->max;
        if (ok && store && e->type == OPTIONS_INT)
            *(int *)at = (int)number;
        if (ok && store && e->type == OPTIONS_BYTES)
            *(size_t *)at = (size_t)number;
        break;
    case OPTIONS_BOOL:
        ok = options_parse_bool(text, &yes);
        if (ok && store)
            *(bool *)at = yes;
        break;
    case OPTIONS_CHOICE:
        choice = options_parse_choice(text, e->values);
        ok = choice >= 0;
        if (ok && store)
            *(int *)at = choice;
        break;
    }
    if (store)
        r->rank[row] = rank;
    if (!ok) {
        char range[64];
        options_range(e, range, sizeof range);
        err_set_param(&r->err, ERR_INVALID, e->name, "%s: '%.60s' is not in %s", place, text, range);
    }
    return ok;
}

/* ---- flags ---- */

/* Row of a name spelt with '-' or '_', or N_ROWS. */
static size_t options_find(const char *name, size_t n)
{
    for (size_t i = 0; i < N_ROWS; i++) {
        size_t k = 0;
        while (k < n && table[i].name[k] != '\0' && (table[i].name[k] == name[k] || (table[i].name[k] == '_' && name[k] == '-')))
            k++;
        if (k == n && table[i].name[k] == '\0')
            return i;
    }
    return N_ROWS;
}

static bool options_read_flags(struct options_reader *r, int argc, char *const *argv)
{
    for (int i = 1; i < argc; i++) {
        const char *arg = strcmp(argv[i], "-m") == 0 ? "--model" : argv[i];
        if (strncmp(arg, "--", 2) != 0 || arg[2] == '\0') {
            err_set(&r->err, ERR_INVALID, "unexpected argument '%.60s'; --help lists the flags", arg);
            return false;
        }
        const char *name = arg + 2, *equals = strchr(name, '=');
        size_t n = equals == NULL ? strlen(name) : (size_t)(equals - name);
        size_t row = options_find(name, n);
        if (row == N_ROWS) {
            err_set(&r->err, ERR_INVALID, "unknown flag '%.*s'; --help lists the flags", (int)(n > 60 ? 60 : n) + 2, arg);
            return false;
        }
        const char *text = equals == NULL ? NULL : equals + 1;
        bool ignored, is_bool = table[row].type == OPTIONS_BOOL;
        if (text == NULL && is_bool)
            text = i + 1 < argc && options_parse_bool(argv[i + 1], &ignored) ? argv[++i] : "on";
        else if (text == NULL && i + 1 < argc)
            text = argv[++i];
        if (text == NULL) {
            err_set(&r->err, ERR_INVALID, "%.60s needs a value", arg);
            return false;
        }
        char place[80];
        snprintf(place, sizeof place, "--%.*s", (int)n, name);
        if (!options_set(r, row, OPTIONS_BY_FLAG, text, place))
            return false;
    }
    return true;
}

/* ---- environment ---- */

static bool options_read_env(struct options_reader *r, char *const *envp)
{
    for (size_t i = 0; envp != NULL && envp[i] != NULL; i++) {
        const char *equals = strchr(envp[i], '=');
        if (strncmp(envp[i], "NEXTD_", 6) != 0 || equals == NULL)
            continue;
        char whole[80], name[80];
        snprintf(whole, sizeof whole, "%.*s", (int)(equals - envp[i]), envp[i]);
        size_t n = strlen(whole) - 6;
        for (size_t k = 0; k <= n; k++)
            name[k] = whole[6 + k] >= 'A' && whole[6 + k] <= 'Z' ? (char)(whole[6 + k] + 'a' - 'A') : whole[6 + k];
        bool foreign = false;
        for (size_t k = 0; foreign_env[k] != NULL; k++)
            foreign = foreign || strcmp(whole, foreign_env[k]) == 0;
        size_t row = options_find(name, n);
        if (row == N_ROWS && !foreign) {
            err_set(&r->err, ERR_INVALID, "unknown environment variable %s; nextd --help lists the options", whole);
            return false;
        }
        if (row < N_ROWS && !options_set(r, row, OPTIONS_BY_ENV, equals + 1, whole))
            return false;
    }
    return true;
}

/* ---- INI file ---- */

/* inih asks for a line: counted here, because the handler is not told the number. */
static char *options_next_line(char *to, int n, void *arg)
{
    struct options_reader *r = arg;
    char *line = fgets(to, n, r->file);
    if (line == NULL)
        return NULL;
    r->line++;
    if (strlen(line) + 1 == (size_t)n && line[n - 2] != '\n' && !feof(r->file) && r->err.code == ERR_NONE)
        err_set(&r->err, ERR_INVALID, "%s:%d: the line is longer than %d bytes", r->path, r->line, n - 2);
    return line;
}

static int options_on_key(void *arg, const char *section, const char *name, const char *value)
{
    struct options_reader *r = arg;
    if (r->err.code != ERR_NONE)
        return 0;
    size_t row = options_find(name, strlen(name));
    if (row == N_ROWS || table[row].section[0] == '\0' || strchr(name, '-') != NULL) {
        err_set(&r->err, ERR_INVALID, "%s:%d: unknown key '%.60s' in [%.60s]", r->path, r->line, name, section);
        return 0;
    }
    if (strcmp(table[row].section, section) != 0) {
        err_set(&r->err, ERR_INVALID, "%s:%d: '%s' belongs to [%s], not %s%.60s%s", r->path, r->line, name, table[row].section,
                section[0] == '\0' ? "before any section" : "to [", section, section[0] == '\0' ? "" : "]");
        return 0;
    }
    if (r->rank[row] == OPTIONS_BY_FILE) {
        err_set(&r->err, ERR_INVALID, "%s:%d: '%s' is set for the second time", r->path, r->line, name);
        return 0;
    }
    char place[300];
    snprintf(place, sizeof place, "%.200s:%d: %s", r->path, r->line, name);
    return options_set(r, row, OPTIONS_BY_FILE, value, place);
}

static bool options_read_file(struct options_reader *r)
{
    if (r->o.config[0] == '\0')
        return true;
    r->path = r->o.config;
    r->file = fopen(r->path, "re");
    if (r->file == NULL) {
        err_set_param(&r->err, ERR_IO, "config", "cannot read %s: %s", r->path, strerror(errno));
        return false;
    }
    int bad = ini_parse_stream(options_next_line, r, options_on_key, r);
    fclose(r->file);
    if (bad != 0 && r->err.code == ERR_NONE)
        err_set(&r->err, ERR_INVALID, "%s:%d: neither [section] nor key = value", r->path, bad);
    return r->err.code == ERR_NONE;
}

/* ---- whole ---- */

static bool options_check(struct options_reader *r)
{
    const struct options *o = &r->o;
    if ((o->tls_cert[0] == '\0') != (o->tls_key[0] == '\0'))
        err_set_param(&r->err, ERR_INVALID, o->tls_cert[0] == '\0' ? "tls_cert" : "tls_key", "tls_cert and tls_key go together; %s is missing",
                      o->tls_cert[0] == '\0' ? "tls_cert" : "tls_key");
    return r->err.code == ERR_NONE;
}

int options_load(int argc, char *const *argv, char *const *envp, struct options *out, struct err *err)
{
    struct options_reader r = {0};
    arena_init(&r.o.text, OPTIONS_TEXT_BYTES);
    bool ok = true;
    for (size_t i = 0; i < N_ROWS && ok; i++)
        ok = options_set(&r, i, OPTIONS_BY_DEFAULT, table[i].fallback, table[i].name);
    ok = ok && options_read_flags(&r, argc, argv) && options_read_env(&r, envp) && options_read_file(&r) && options_check(&r);
    if (!ok) {
        options_finish(&r.o);
        if (err != NULL)
            *err = r.err;
        return -1;
    }
    *out = r.o;
    return 0;
}

void options_finish(struct options *o)
{
    arena_finish(&o->text);
}

bool options_row(size_t i, struct options_row *out)
{
    if (i >= N_ROWS)
        return false;
    const struct options_entry *e = &table[i];
    *out = (struct options_row){.name = e->name, .section = e->section, .fallback = e->fallback, .help = e->help};
    options_range(e, out->values, sizeof out->values);
    return true;
}

void options_help(FILE *to)
{
    struct options_row row;
    const char *section = NULL;
    for (size_t i = 0; options_row(i, &row); i++) {
        if (section == NULL || strcmp(section, row.section) != 0)
            fprintf(to, "%s%s%s\n", i == 0 ? "" : "\n", row.section[0] == '\0' ? "general" : row.section, ":");
        section = row.section;
        char flag[48];
        snprintf(flag, sizeof flag, "--%s", row.name);
        for (char *p = flag; *p != '\0'; p++)
            *p = *p == '_' ? '-' : *p;
        fprintf(to, "  %s%-21s %s [%s%s%s]\n", strcmp(row.name, "model") == 0 ? "-m, " : "    ", flag, row.help, row.values,
                row.fallback[0] == '\0' ? "" : "; ", row.fallback);
    }
    fprintf(to, "\nEach option is also a key in the file (--max-seqs: max_seqs in [engine]) and a variable (NEXTD_MAX_SEQS).\n"
                "Flags win over variables, variables over the file, the file over defaults.\n");
}
