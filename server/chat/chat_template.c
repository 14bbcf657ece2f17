/* chat_template.c: compiling and rendering. See chat_template.h.
 *
 * A compiled template is an arena with its tree and its interned names. A render makes its own arena, turns the request's JSON into values (strings
 * refer to jansson's memory, which outlives the render), runs the tree and copies the text and its runs out. Everything that came with the request is
 * untrusted, with one exception: a message's "role" that is one of the roles every template knows. It is a choice from a list of ours, not text, and
 * templates build control tokens from it ("<|" + role + "|>"). */
#include "server/chat/chat_template.h"

#include <stdlib.h>
#include <string.h>

#include "server/chat/jeval.h"
#include "server/chat/juni.h"

#define TEMPLATE_MAX_BYTES ((size_t)1 << 20)
#define TEMPLATE_ARENA_BYTES ((size_t)128 << 20)
#define DATA_MAX_DEPTH 256

/* ---- compiling ------------------------------------------------------------------------------------------------------------------------------ */

int chat_template_compile(const char *source, size_t n, struct chat_template **out, struct err *err)
{
    if (n > TEMPLATE_MAX_BYTES)
        return err_set(err, ERR_UNSUPPORTED, "the chat template is %zu bytes; at most %zu are read", n, TEMPLATE_MAX_BYTES);
    if (!juni_valid(source, n))
        return err_set(err, ERR_FORMAT, "the chat template is not valid UTF-8");
    struct chat_template *t = calloc(1, sizeof *t);
    if (t == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the chat template");
    arena_init(&t->arena, TEMPLATE_ARENA_BYTES);
    struct jtokens tokens = {0};
    if (jlex_run(&t->arena, source, n, &tokens, err) < 0 || jparse_run(t, &tokens, err) < 0) {
        chat_template_destroy(t);
        return -1;
    }
    *out = t;
    return 0;
}

void chat_template_destroy(struct chat_template *t)
{
    if (t == NULL)
        return;
    arena_finish(&t->arena);
    free(t);
}

/* ---- the request's variables ---------------------------------------------------------------------------------------------------------------- */

static int chat_value(struct jrun *r, const json_t *j, int depth, struct jval *out);

static int chat_array(struct jrun *r, const json_t *j, int depth, struct jval *out)
{
    size_t n = json_array_size(j);
    struct jseq *s = jseq_new(r, n);
    for (size_t i = 0; s != NULL && i < n; i++) {
        struct jval v;
        if (chat_value(r, json_array_get(j, i), depth + 1, &v) < 0 || jseq_push(r, s, v) < 0)
            return -1;
    }
    if (s == NULL)
        return -1;
    *out = jval_seq(J_LIST, s, false);
    return 0;
}

static int chat_object(struct jrun *r, const json_t *j, int depth, struct jval *out)
{
    struct jdict *d = jdict_new(r);
    for (void *it = json_object_iter((json_t *)j); d != NULL && it != NULL; it = json_object_iter_next((json_t *)j, it)) {
        struct jval v;
        struct jstr *key = jstr_ref(r, json_object_iter_key(it), json_object_iter_key_len(it), false);
        if (key == NULL || chat_value(r, json_object_iter_value(it), depth + 1, &v) < 0 || jdict_set(r, d, jval_str(key), v) < 0)
            return -1;
    }
    if (d == NULL)
        return -1;
    *out = jval_dict(d, false);
    return 0;
}

static int chat_value(struct jrun *r, const json_t *j, int depth, struct jval *out)
{
    if (depth > DATA_MAX_DEPTH)
        return jrun_fail(r, "the request's values are nested deeper than %d levels", DATA_MAX_DEPTH);
    switch (json_typeof(j)) {
    case JSON_OBJECT: return chat_object(r, j, depth, out);
    case JSON_ARRAY: return chat_array(r, j, depth, out);
    case JSON_STRING:
        *out = jval_str(jstr_ref(r, json_string_value(j), json_string_length(j), false));
        return out->u.s == NULL ? -1 : 0;
    case JSON_INTEGER: *out = jval_int(json_integer_value(j), false); return 0;
    case JSON_REAL: *out = jval_float(json_real_value(j), false); return 0;
    case JSON_TRUE: case JSON_FALSE:
        *out = jval_bool(json_is_true(j));
        out->trusted = false;
        return 0;
    default:
        *out = jval_none();
        out->trusted = false;
        return 0;
    }
}

static void chat_trust_roles(const struct jval *messages)
{
    static const char *const roles[] = {"system", "developer", "user", "assistant", "tool", "function"};
    for (size_t i = 0; i < messages->u.seq->n; i++) {
        const struct jval *m = &messages->u.seq->v[i];
        struct jval *role = m->type == J_DICT ? jdict_get_str(m->u.dict, "role", 4) : NULL;
        for (size_t k = 0; role != NULL && role->type == J_STR && k < sizeof roles / sizeof roles[0]; k++)
            if (jstr_is(role->u.s, roles[k]))
                jstr_init(role->u.s, roles[k], strlen(roles[k]), true);
    }
}

/* Sets a variable if the template has a use for its name. */
static int chat_set(struct jrun *r, struct jscope *sc, const char *name, size_t n, struct jval v)
{
    for (size_t i = 0; i < r->tmpl->n_names; i++)
        if (r->tmpl->names[i]->n == n && memcmp(r->tmpl->names[i]->p, name, n) == 0)
            return jscope_set(r, sc, (uint32_t)i, v);
    return 0;
}

/* What further variables may not shadow. */
static bool chat_is_own(const char *name)
{
    static const char *const own[] = {"messages", "tools", "bos_token", "eos_token", "add_generation_prompt"};
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        if (strcmp(name, own[i]) == 0)
            return true;
    return false;
}

static int chat_variables(struct jrun *r, const struct chat_input *in, struct jscope *sc)
{
    struct jval messages = jval_seq(J_LIST, NULL, false), tools = jval_none();
    struct jstr *bos = jstr_ref(r, in->bos_token, strlen(in->bos_token), true), *eos = jstr_ref(r, in->eos_token, strlen(in->eos_token), true);
    if (bos == NULL || eos == NULL)
        return -1;
    if (!juni_valid(in->bos_token, bos->n) || !juni_valid(in->eos_token, eos->n))
        return jrun_unsupported(r, "a BOS or EOS token that is not valid UTF-8 is not supported in chat templates");
    if (!json_is_array(in->messages))
        return jrun_fail(r, "the messages are not a list");
    if (chat_array(r, in->messages, 1, &messages) < 0 || (in->tools != NULL && chat_value(r, in->tools, 1, &tools) < 0))
        return -1;
    chat_trust_roles(&messages);
    if (chat_set(r, sc, "messages", 8, messages) < 0 || chat_set(r, sc, "tools", 5, tools) < 0 || chat_set(r, sc, "documents", 9, jval_none()) < 0 ||
        chat_set(r, sc, "bos_token", 9, jval_str(bos)) < 0 || chat_set(r, sc, "eos_token", 9, jval_str(eos)) < 0 ||
        chat_set(r, sc, "add_generation_prompt", 21, jval_bool(in->add_generation_prompt)) < 0)
        return -1;
    for (void *it = in->extra != NULL ? json_object_iter((json_t *)in->extra) : NULL; it != NULL;
         it = json_object_iter_next((json_t *)in->extra, it)) {
        struct jval v;
        const char *name = json_object_iter_key(it);
        if (chat_is_own(name))
            return jrun_fail(r, "chat_template_kwargs may not set '%s', which the request has a field for", name);
        if (chat_value(r, json_object_iter_value(it), 1, &v) < 0 || chat_set(r, sc, name, json_object_iter_key_len(it), v) < 0)
            return -1;
    }
    return 0;
}

/* ---- rendering ------------------------------------------------------------------------------------------------------------------------------ */

struct chat_limits chat_limits_default(void)
{
    return (struct chat_limits){.max_steps = 20000000, .max_depth = 500, .max_output_bytes = (size_t)16 << 20, .max_memory_bytes = (size_t)256 << 20};
}

static int chat_finish(const struct jrun *r, const struct jstr *s, struct chat_output *out, struct err *err)
{
    size_t n_runs = s->n == 0 ? 0 : s->trust == JTRUST_MIXED ? s->n_marks : 1;
    char *text = malloc(s->n + 1);
    struct chat_run *runs = malloc((n_runs + 1) * sizeof *runs);
    if (text == NULL || runs == NULL) {
        free(text);
        free(runs);
        return err_set(err, ERR_NOMEM, "no memory for the rendered chat");
    }
    memcpy(text, s->p, s->n);
    text[s->n] = '\0';
    if (n_runs == 1)
        runs[0] = (struct chat_run){.n = s->n, .trusted = s->trust == JTRUST_YES};
    for (size_t i = 0; i < n_runs && s->trust == JTRUST_MIXED; i++)
        runs[i] = (struct chat_run){.n = s->marks[i].end - (i > 0 ? s->marks[i - 1].end : 0), .trusted = s->marks[i].trusted};
    *out = (struct chat_output){.text = text, .n = s->n, .runs = runs, .n_runs = n_runs, .used_now = r->used_now};
    return 0;
}

int chat_template_render(const struct chat_template *t, const struct chat_input *in, const struct chat_limits *limits, struct chat_output *out,
                         struct err *err)
{
    struct arena arena;
    arena_init(&arena, limits->max_memory_bytes);
    struct jrun r = {.arena = &arena, .err = err, .tmpl = t, .steps_left = limits->max_steps, .max_depth = limits->max_depth,
                     .max_bytes = limits->max_output_bytes, .line = 1, .now_s = in->now_s};
    struct jbuild build;
    struct jstr *text;
    jbuild_init(&build, &r);
    struct jscope *globals = jscope_new(&r, NULL), *top = globals != NULL ? jscope_new(&r, globals) : NULL;
    int rc = -1;
    if (top != NULL && chat_variables(&r, in, globals) == 0 && jexec_body(&r, top, &t->body, &build) == 0 && jbuild_finish(&build, &text) == 0)
        rc = chat_finish(&r, text, out, err);
    arena_finish(&arena);
    return rc;
}

void chat_output_finish(struct chat_output *o)
{
    free(o->text);
    free(o->runs);
    *o = (struct chat_output){0};
}
