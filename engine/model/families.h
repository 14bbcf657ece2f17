/* families.h: the architectures that nextd runs, each one row of a table.
 *
 * All of them are one transformer: norm, attention with rotary positions over grouped heads, norm, gated feed-forward. A row says where a family
 * differs; hparams.c, weights.c and forward.c act on the row and know no names. To add a family: add its row to families.c and a tiny reference
 * model to scripts/make-fixtures. */
#ifndef NEXTD_FAMILIES_H
#define NEXTD_FAMILIES_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/backend/backend.h"
#include "engine/model/weights.h"
#include "engine/text/tokenizer.h"

struct family {
    const char *arch;   /* general.architecture */
    bool rope_neox;     /* which dimensions form a pair; the file's q and k rows are in this order */
    bool rope_whole;    /* rope.dimension_count must be the head's size */
    bool embed_scaled;  /* embeddings are multiplied by sqrt(d_model) */
    enum activation act;
    /* attention.sliding_window, where the file has one, holds for: 0 no layer (the key is refused), 1 every layer, n every layer but each nth. */
    int window_pattern;
    double local_base;  /* rope base of windowed layers where the file gives none; 0: the base of all layers */
    int width_scaled_layers; /* a model of so many layers scales attention by 1/sqrt(d_model / n_head), not 1/sqrt(head_dim); 0: none */
    unsigned required;  /* bits 1 << enum weight: beyond those of every family */
    unsigned optional;
};

/* NULL for an architecture that is not in the table. */
const struct family *family_find(struct token_str arch);

/* "gemma3, llama, qwen2, qwen3". Returns buf. */
const char *family_list(char *buf, size_t n);

#endif
