/* special.h: tokens that are found in text by their spelling before ordinary tokenization. Immutable once built; any thread. */
#ifndef NEXTD_SPECIAL_H
#define NEXTD_SPECIAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/err.h"
#include "engine/text/pieces.h"

/* No known model spells a special token longer; the bound keeps matching linear whatever the file says. */
#define SPECIAL_MAX_BYTES 256

struct special {
    int32_t id;
    bool control; /* matches in trusted text only */
};

/* Sorted by text; first[c] .. first[c + 1] begin with byte c. */
struct special_set {
    struct special *list;
    size_t n;
    uint32_t first[257];
    const struct pieces *pieces;
};

/* Takes over list (malloc'd) and sorts it; pieces is borrowed. Of two with the same text the lowest id stays, as control if one is. */
void special_init(struct special_set *s, struct special *list, size_t n, const struct pieces *pieces);
void special_finish(struct special_set *s);
/* Makes control tokens of those that the template spells: its markers, which a user's text must not imitate. Tokens of white space stay as they
 * are. */
void special_protect(struct special_set *s, const char *template_text, size_t n);
/* The longest token that text[0..n) begins with, a control token only within the first n_trusted bytes. -1 for none. */
int32_t special_match(const struct special_set *s, const char *text, size_t n, size_t n_trusted, size_t *len_out);

#endif
