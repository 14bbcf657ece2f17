/* api.h: what a client may ask for, as one plain struct. Parsing is pure: bytes in, struct or error out; any thread.
 *
 * The rules for every field: null equals absent; a wrong type or range is ERR_INVALID with the JSON path as param; an unknown name is the same,
 * unless the limits say to ignore, then its path is listed in `ignored`; a known feature that is not served is refused by name unless its value
 * is the neutral one. A number must fit; nothing is clamped. */
#ifndef NEXTD_API_H
#define NEXTD_API_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/engine.h"
#include "engine/err.h"
#include "server/arena.h"

enum api_kind { API_COMPLETION, API_CHAT, API_TOKENIZE, API_DETOKENIZE };

struct api_limits {
    int max_choices, max_prompts, max_stops, max_stop_bytes, max_bias; /* none above the engine's own */
    int max_messages;
    int json_depth;        /* nesting of arrays and objects */
    size_t json_values;    /* upper bound of all values in a body; a tree takes about 40 bytes for each */
    bool ignore_unknown;
};

/* One prompt: ids where ids != NULL, else text (which may contain NULs). */
struct api_prompt {
    const char *text;
    size_t n_text;
    const int32_t *ids;
    size_t n_ids;
};

/* Absent fields hold their documented defaults. Pointers lead into the arena or into `root`. */
struct api_request {
    enum api_kind kind;
    const char *model;     /* NULL or "": whatever is loaded */
    bool stream, include_usage;

    int n_choices;
    int max_tokens;        /* -1: up to the context */
    int min_tokens;
    bool ignore_eos, echo;
    int n_logprobs;        /* -1: none */
    float temperature, top_p, min_p, typical_p, repetition_penalty, frequency_penalty, presence_penalty;
    int top_k;
    bool has_seed;
    int64_t seed;
    const struct engine_bias *bias;
    int n_bias;
    const struct engine_text *stops;
    int n_stops;
    const int32_t *stop_ids;
    int n_stop_ids;

    const struct api_prompt *prompts; /* completions: 1 .. max_prompts; tokenize: 1, or 0 with messages; detokenize: 1 of ids */
    size_t n_prompts;
    bool prompt_is_list;              /* of prompts: errors name prompt[i], even of one */
    bool add_special_tokens;          /* the BOS token before a text prompt */

    json_t *messages;                 /* chat: normalised for the template (inside root); NULL for others */
    json_t *template_kwargs;          /* object or NULL */
    bool add_generation_prompt;
    bool has_now;
    int64_t now_s;                    /* template_now_s: what strftime_now shall see */

    bool return_token_strs;           /* tokenize */

    const char *ignored;              /* comma-separated paths in header-safe characters; "" */
    json_t *root;                     /* owned; NULL after api_request_finish */
};

/* On success the caller owes api_request_finish. The body is not needed afterwards. */
int api_parse(enum api_kind kind, const char *body, size_t n, const struct api_limits *limits, struct arena *arena, struct api_request *out,
              struct err *err);
/* Drops the JSON tree, and with it texts and messages. Harmless twice and on a zeroed struct. */
/* "prompt", or "prompt[i]" where a list was sent; "tokens" for detokenize. */
void api_prompt_path(const struct api_request *r, size_t i, char *out, size_t n);

void api_request_finish(struct api_request *r);

#endif
