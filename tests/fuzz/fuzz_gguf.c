/* The GGUF reader, the hyperparameters, the weights and the vocabulary on any bytes: no crash, no read beyond the end, memory bounded by the input.
 * Seeds: tests/fuzz/corpus/gguf, made by tests/fixtures/make/make_seeds.py. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/families.h"
#include "engine/model/gguf.h"
#include "engine/model/hparams.h"
#include "engine/model/vocab.h"
#include "engine/model/weights.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void read_entries(const struct gguf *g)
{
    char text[100];
    for (size_t i = 0; i < gguf_n_kv(g); i++) {
        const struct gguf_kv *kv = gguf_kv(g, i);
        gguf_kv_text(kv, text, sizeof text);
        gguf_printable(kv->key, text, sizeof text);
        const uint8_t *p = kv->p;
        for (uint64_t k = 0; k < kv->n && kv->type == GGUF_STRING; k++)
            gguf_next_str(&p);
        if (kv->type == GGUF_STRING && p != kv->p + kv->n_bytes)
            abort();
    }
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor(g, i);
        volatile uint8_t last = t->data[t->n_bytes - 1]; /* every described byte exists */
        (void)last;
    }
}

static void read_model(const struct gguf *g)
{
    struct token_str arch;
    struct hparams hp;
    struct weights weights;
    struct vocab_arrays vocab;
    if (vocab_init(&vocab, g, NULL) == 0)
        vocab_finish(&vocab);
    if (gguf_get_str(g, "general.architecture", &arch, NULL) != 1)
        return;
    const struct family *family = family_find(arch);
    if (family == NULL || hparams_read(g, family, &hp, NULL) != 0 || weights_bind(g, family, &hp, &weights, NULL) != 0)
        return;
    weights_finish(&weights);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct gguf *g;
    if (gguf_open_memory(data, n, &g, NULL) != 0)
        return 0;
    read_entries(g);
    read_model(g);
    gguf_close(g);
    return 0;
}
