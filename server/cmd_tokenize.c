/* cmd_tokenize.c: `nextd tokenize`, standard input to token ids as a JSON array, by the model file's own vocabulary. No weights are needed.
 *
 * The text is a user's text, as in POST /tokenize: a control token spelled in it is ordinary text unless --special says that it counts. */
#include "server/cmd.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "server/buf.h"
#include "server/utf8.h"

#define TOKENIZE_MAX_BYTES ((size_t)256 << 20)
#define TOKENIZE_MAX_OUT_BYTES ((size_t)1 << 33)

struct tokenize {
    const char *model;
    bool ids, bos, special;
};

static const struct option tokenize_long_options[] = {
    {"model", required_argument, NULL, 'm'}, {"ids", no_argument, NULL, 'i'},  {"bos", no_argument, NULL, 'b'},
    {"special", no_argument, NULL, 's'},     {"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0},
};

static void tokenize_usage(FILE *to)
{
    fputs("usage: nextd tokenize [--ids] [--bos] [--special] -m FILE\n"
          "  reads text from standard input and prints a JSON array, of {\"id\", \"text\"} for each token\n"
          "  -m, --model FILE   a model, or a vocabulary alone (GGUF)\n"
          "      --ids          print the ids alone\n"
          "      --bos          begin with the model's BOS token where the model wants one\n"
          "      --special      control tokens that are spelled in the text count as such\n",
          to);
}

static int tokenize_read(FILE *from, struct buf *text)
{
    char block[65536];
    for (size_t n; (n = fread(block, 1, sizeof block, from)) > 0;)
        if (!buf_append(text, block, n)) {
            fprintf(stderr, "nextd tokenize: the text is more than %zu bytes\n", TOKENIZE_MAX_BYTES);
            return -1;
        }
    if (ferror(from)) {
        fprintf(stderr, "nextd tokenize: cannot read standard input: %s\n", strerror(errno));
        return -1;
    }
    return 0;
}

/* Bytes as a JSON string. A token may hold part of a character; each byte that is not well-formed UTF-8 is shown as \udc80 .. \udcff, the way
 * Python's surrogateescape does, so that the bytes can be had back. */
static bool tokenize_print_text(struct buf *out, const char *p, size_t n)
{
    bool ok = buf_puts(out, "\"");
    for (size_t i = 0; ok && i < n;) {
        size_t len = utf8_char_bytes(p + i, n - i);
        ok = len > 0 ? buf_json_escape(out, p + i, len) : buf_printf(out, "\\udc%02x", (unsigned char)p[i]);
        i += len > 0 ? len : 1;
    }
    return ok && buf_puts(out, "\"");
}

static bool tokenize_print(struct buf *out, const struct engine_tokenizer *t, const struct engine_ids *ids, bool ids_only)
{
    bool ok = buf_puts(out, "[");
    for (size_t i = 0; ok && i < ids->n; i++) {
        const char *separator = i == 0 ? "" : ids_only ? ", " : ",\n ";
        if (ids_only) {
            ok = buf_printf(out, "%s%d", separator, ids->ids[i]);
            continue;
        }
        const char *p;
        size_t n = engine_tokenizer_bytes(t, ids->ids[i], true, &p);
        ok = buf_printf(out, "%s{\"id\": %d, \"text\": ", separator, ids->ids[i]) && tokenize_print_text(out, p, n) && buf_puts(out, "}");
    }
    return ok && buf_puts(out, "]\n");
}

static int tokenize_run(const struct tokenize *opt, const struct engine_tokenizer *t)
{
    struct buf text, out;
    struct engine_ids ids = {0};
    struct err err = {0};
    buf_init(&text, TOKENIZE_MAX_BYTES);
    buf_init(&out, TOKENIZE_MAX_OUT_BYTES);
    int status = 1;
    if (tokenize_read(stdin, &text) == 0) {
        struct engine_span span = {.p = text.p, .n = text.n, .trusted = opt->special};
        if (engine_tokenizer_encode(t, &span, 1, opt->bos, SIZE_MAX, &ids, &err) != 0)
            fprintf(stderr, "nextd tokenize: %s\n", err.msg);
        else if (!tokenize_print(&out, t, &ids, opt->ids))
            fputs("nextd tokenize: no memory for the result\n", stderr);
        else if (fwrite(out.p, 1, out.n, stdout) != out.n || fflush(stdout) != 0)
            fprintf(stderr, "nextd tokenize: cannot write: %s\n", strerror(errno));
        else
            status = 0;
    }
    engine_ids_finish(&ids);
    buf_finish(&out);
    buf_finish(&text);
    return status;
}

int cmd_tokenize(int argc, char **argv)
{
    struct tokenize opt = {0};
    for (int c; (c = getopt_long(argc, argv, "m:h", tokenize_long_options, NULL)) != -1;) {
        switch (c) {
        case 'm': opt.model = optarg; break;
        case 'i': opt.ids = true; break;
        case 'b': opt.bos = true; break;
        case 's': opt.special = true; break;
        case 'h': tokenize_usage(stdout); return 0;
        default: return 2;
        }
    }
    if (opt.model == NULL || optind != argc) {
        tokenize_usage(stderr);
        return 2;
    }
    struct engine_tokenizer *t = NULL;
    struct err err = {0};
    if (engine_tokenizer_open(opt.model, &t, &err) != 0) {
        fprintf(stderr, "nextd tokenize: %s\n", err.msg);
        return 1;
    }
    int status = tokenize_run(&opt, t);
    engine_tokenizer_close(t);
    return status;
}
