/* chat_template.h: a model's own chat template (the Jinja subset that models use), compiled once, rendered per request.
 *
 * The output knows the provenance of every byte: bytes that stand in the template's source (and the model's bos/eos spellings) are trusted, bytes
 * that came from messages, tools or arguments are not, whatever filters they went through. The tokenizer lets control tokens match in trusted bytes
 * only.
 *
 * Rendering is bounded: fuel (evaluation steps), recursion depth, output bytes. Configured as transformers configures jinja2 (trim_blocks,
 * lstrip_blocks, loop controls, the `generation` tag, tojson without HTML escapes, strftime_now, raise_exception). What the interpreter does not know
 * is refused at compile time, with the construct and the line; a filter or test that jinja2 does not know either and that stands under an `if` is
 * refused when it is reached, as jinja2 does.
 *
 * A compiled template is immutable and may be rendered by several threads at once. */
#ifndef NEXTD_CHAT_TEMPLATE_H
#define NEXTD_CHAT_TEMPLATE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/err.h"

struct chat_template;

/* source need not be terminated. ERR_UNSUPPORTED or ERR_FORMAT with "chat template, line 12: ...". */
int chat_template_compile(const char *source, size_t n, struct chat_template **out, struct err *err);
void chat_template_destroy(struct chat_template *t); /* NULL is fine */

struct chat_input {
    const json_t *messages;  /* array of objects; the bytes of their strings are untrusted, but for a "role" that is one of the well-known words */
    const json_t *tools;     /* array or NULL */
    const json_t *extra;     /* object of further variables (chat_template_kwargs) or NULL; untrusted */
    const char *bos_token, *eos_token; /* trusted spellings; "" where there is none */
    bool add_generation_prompt;
    int64_t now_s;           /* seconds since 1970 UTC for strftime_now; fixed at admission */
};

struct chat_limits {
    uint64_t max_steps;        /* evaluation steps */
    int max_depth;             /* nesting of calls, macros and expressions; each takes about half a KiB of the C stack */
    size_t max_output_bytes;   /* of the text, and of any string on the way to it */
    size_t max_memory_bytes;   /* of everything a render makes */
};
struct chat_limits chat_limits_default(void);

struct chat_run {
    size_t n;       /* bytes */
    bool trusted;
};

struct chat_output {
    char *text;     /* malloc'd, NUL-terminated; may contain NULs */
    size_t n;
    struct chat_run *runs; /* malloc'd; consecutive, their sizes add up to n, neighbours differ in trust */
    size_t n_runs;
    bool used_now;  /* strftime_now was called: the date belongs to the answer */
};
void chat_output_finish(struct chat_output *o);

/* ERR_INVALID with the template's own message for raise_exception ("chat template, line 3: Conversation roles must alternate"), and for limits. */
int chat_template_render(const struct chat_template *t, const struct chat_input *in, const struct chat_limits *limits, struct chat_output *out,
                         struct err *err);

#endif
