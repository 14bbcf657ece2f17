/* tokenize_many.c: a tokenizer for test programs in other languages. `tokenize_many FILE` reads requests from stdin and answers each on stdout, so
 * that ten thousand texts need one load of the vocabulary. All numbers are u32 in the machine's order.
 *
 *     request: n_spans, then for each: trusted, n_bytes, the bytes        (n_spans' bit 31: add the BOS)
 *     answer:  microseconds of processor time, n_ids, the ids, n_lost, n_bytes, the ids' bytes (special tokens included), n_text, detok_all's
 *              text */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "engine/model/vocab.h"
#include "engine/text/detok.h"

#define MAX_SPANS 1024

static void fail(const char *what)
{
    fprintf(stderr, "tokenize_many: %s\n", what);
    exit(1);
}

static uint32_t read_u32(void)
{
    uint32_t x;
    if (fread(&x, sizeof x, 1, stdin) != 1)
        fail("the request is cut short");
    return x;
}

static void write_u32(size_t x)
{
    uint32_t y = (uint32_t)x;
    fwrite(&y, sizeof y, 1, stdout);
}

static void answer(const struct tokenizer *t, uint32_t head)
{
    static struct text_span spans[MAX_SPANS];
    struct err err = {0};
    size_t n_spans = head & 0x7fffffff;
    if (n_spans > MAX_SPANS)
        fail("too many spans");
    for (size_t i = 0; i < n_spans; i++) {
        spans[i].trusted = read_u32() != 0;
        spans[i].n = read_u32();
        char *p = malloc(spans[i].n + 1);
        if (p == NULL || fread(p, 1, spans[i].n, stdin) != spans[i].n)
            fail("the request is cut short");
        spans[i].p = p;
    }
    struct token_list ids = {0};
    struct timespec from, to;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
    if (tokenizer_encode(t, spans, n_spans, head >> 31, SIZE_MAX, &ids, &err) != 0)
        fail(err.msg);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
    write_u32((size_t)((to.tv_sec - from.tv_sec) * 1000000 + (to.tv_nsec - from.tv_nsec) / 1000));
    write_u32(ids.n);
    if (ids.n > 0)
        fwrite(ids.ids, sizeof *ids.ids, ids.n, stdout);
    write_u32(ids.n_lost);
    const char *p;
    size_t n_bytes = 0, n_text = 0;
    for (size_t i = 0; i < ids.n; i++)
        n_bytes += tokenizer_bytes(t, ids.ids[i], true, &p);
    write_u32(n_bytes);
    for (size_t i = 0; i < ids.n; i++) {
        size_t n = tokenizer_bytes(t, ids.ids[i], true, &p);
        fwrite(p, 1, n, stdout);
    }
    char *text = NULL;
    if (detok_all(t, ids.ids, ids.n, true, &text, &n_text, &err) != 0)
        fail(err.msg);
    write_u32(n_text);
    fwrite(text, 1, n_text, stdout);
    free(text);
    token_list_finish(&ids);
    for (size_t i = 0; i < n_spans; i++)
        free((char *)(uintptr_t)spans[i].p);
}

int main(int argc, char **argv)
{
    struct gguf *g;
    struct vocab_arrays v;
    struct tokenizer *t;
    struct err err = {0};
    if (argc != 2)
        fail("usage: tokenize_many FILE");
    if (gguf_open(argv[1], &g, &err) != 0 || vocab_init(&v, g, &err) != 0 || tokenizer_create(&v.vocab, &t, &err) != 0)
        fail(err.msg);
    uint32_t head;
    while (fread(&head, sizeof head, 1, stdin) == 1)
        answer(t, head);
    tokenizer_destroy(t);
    vocab_finish(&v);
    gguf_close(g);
    return fflush(stdout) == 0 ? 0 : 1;
}
