/* families.c: the table of model families. See families.h. */
#include "engine/model/families.h"

#include <stdio.h>
#include <string.h>

#define BIT(w) (1u << (w))
#define QKV_BIAS (BIT(W_Q_BIAS) | BIT(W_K_BIAS) | BIT(W_V_BIAS))
#define QK_NORM (BIT(W_Q_NORM) | BIT(W_K_NORM))
#define POST_NORMS (BIT(W_ATTN_POST_NORM) | BIT(W_FFN_POST_NORM))

static const struct family families[] = {
    {
        .arch = "gemma3",
        .rope_neox = true,
        .embed_scaled = true,
        .act = ACT_GELU_TANH,
        .window_pattern = 6,
        .local_base = 10000.0,
        .width_scaled_layers = 62, /* the 27B, whose query scale is by 5376 / 32 = 168 although its heads have 128 dimensions */
        .required = QK_NORM | POST_NORMS,
    },
    {
        /* Llama 2 and 3, Mistral, SmolLM2 and the many that share their shape. */
        .arch = "llama",
        .rope_whole = true,
        .act = ACT_SILU,
        .window_pattern = 1,
        .optional = QKV_BIAS | BIT(W_O_BIAS) | BIT(W_ROPE_FACTORS),
    },
    {
        .arch = "qwen2",
        .rope_neox = true,
        .act = ACT_SILU,
        .optional = QKV_BIAS,
    },
    {
        .arch = "qwen3",
        .rope_neox = true,
        .act = ACT_SILU,
        .required = QK_NORM,
    },
};
#define N_FAMILIES (sizeof families / sizeof families[0])

const struct family *family_find(struct token_str arch)
{
    for (size_t i = 0; i < N_FAMILIES; i++)
        if (strlen(families[i].arch) == arch.n && memcmp(families[i].arch, arch.p, arch.n) == 0)
            return &families[i];
    return NULL;
}

const char *family_list(char *buf, size_t n)
{
    size_t len = 0;
    buf[0] = '\0';
    for (size_t i = 0; i < N_FAMILIES && len < n; i++)
        len += (size_t)snprintf(buf + len, n - len, "%s%s", i > 0 ? ", " : "", families[i].arch);
    return buf;
}
