/* token_list.c: doubles its memory; the limit is the caller's. See token_list.h. */
#include "engine/text/token_list.h"

#include <stdlib.h>

int token_list_push(const struct token_sink *sink, int32_t id, struct err *err)
{
    struct token_list *l = sink->out;
    if (l->n >= sink->max_tokens)
        return err_set(err, ERR_CONTEXT, "the text is more than %zu tokens", sink->max_tokens);
    if (l->n == l->cap) {
        size_t cap = l->cap < 64 ? 64 : 2 * l->cap;
        int32_t *ids = realloc(l->ids, cap * sizeof *ids);
        if (ids == NULL)
            return err_set(err, ERR_NOMEM, "no memory for %zu tokens", cap);
        l->ids = ids;
        l->cap = cap;
    }
    l->ids[l->n++] = id;
    return 0;
}

void token_list_finish(struct token_list *l)
{
    free(l->ids);
    *l = (struct token_list){0};
}
