/* toy_runner.c: see toy_runner.h. Assertions are the point here; tests are built without NDEBUG. */
#include "tests/engine/toy_runner.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/backend/pool.h"

#define N_BLOCKS ((TOY_VOCAB + SCORES_BLOCK - 1) / SCORES_BLOCK)
#define CHAIN_SEED 0x243f6a8885a308d3u

struct toy_cell {
    int32_t token, pos; /* pos -1: never written */
    uint64_t chain;
};

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0xff51afd7ed558ccdu;
    h ^= h >> 32;
    h *= 0xc4ceb9fe1a85ec53u;
    return h ^ h >> 29;
}

struct toy *toy_create(const struct toy_options *opt)
{
    struct toy *t = calloc(1, sizeof *t);
    assert(t != NULL);
    t->opt = *opt;
    if (t->opt.max_scores == 0)
        t->opt.max_scores = 3; /* few, so that every test meets groups */
    t->opt.n_threads = opt->n_threads == 0 ? 1 : opt->n_threads;
    struct err err;
    int rc = pool_create(t->opt.n_threads, &t->pool, &err);
    assert(rc == 0);
    t->cells = malloc(sizeof *t->cells * (size_t)opt->n_pages * KV_PAGE);
    t->logits = malloc(sizeof *t->logits * (size_t)t->opt.max_scores * TOY_VOCAB);
    t->block_max = malloc(sizeof *t->block_max * (size_t)t->opt.max_scores * N_BLOCKS);
    assert(t->cells != NULL);
    assert(t->logits != NULL);
    assert(t->block_max != NULL);
    for (int i = 0; i < opt->n_pages * KV_PAGE; i++)
        t->cells[i] = (struct toy_cell){.token = -1, .pos = -1};
    return t;
}

void toy_destroy(struct toy *t)
{
    pool_destroy(t->pool);
    free(t->cells);
    free(t->logits);
    free(t->block_max);
    free(t);
}

static struct toy_cell *cell(struct toy *t, const struct batch *b, int seq, int pos)
{
    int32_t page = b->pages[seq][pos / KV_PAGE];
    assert(page >= 0);
    assert(page < t->opt.n_pages);
    return &t->cells[page * KV_PAGE + pos % KV_PAGE];
}

/* The cells of positions 0 .. pos of the sequence are written, in their places, and each continues the one before. */
static void check_chain(struct toy *t, const struct batch *b, int seq, int pos)
{
    uint64_t chain = CHAIN_SEED;
    for (int i = 0; i <= pos; i++) {
        const struct toy_cell *c = cell(t, b, seq, i);
        assert(c->pos == i);
        chain = mix(mix(chain, (uint64_t)c->token), (uint64_t)i);
        assert(c->chain == chain);
    }
}

static void check_batch(const struct toy *t, const struct batch *b)
{
    assert(b->n_rows >= 1);
    assert(b->n_rows <= t->opt.max_rows);
    assert(b->n_out <= t->opt.max_out);
    assert(b->seq[0] == 0);
    assert(b->seq[b->n_rows - 1] == b->n_seqs - 1);
    for (int r = 0; r < b->n_rows; r++) {
        assert(b->token[r] >= 0 && b->token[r] < TOY_VOCAB);
        assert(b->pos[r] >= 0 && b->pos[r] < t->opt.n_ctx);
        if (r == 0)
            continue;
        if (b->seq[r] == b->seq[r - 1])
            assert(b->pos[r] == b->pos[r - 1] + 1);
        else
            assert(b->seq[r] == b->seq[r - 1] + 1);
    }
    for (int i = 0; i < b->n_out; i++) {
        assert(b->out[i] >= 0 && b->out[i] < b->n_rows);
        assert(i == 0 || b->out[i] > b->out[i - 1]);
    }
}

/* Multiples of 1/8 between -4 and 4, so that ties abound, with some peaks; end tokens come now and then. */
static void fill_logits(struct toy *t, int i, uint64_t chain)
{
    float *row = t->logits + (size_t)i * TOY_VOCAB, *max = t->block_max + (size_t)i * N_BLOCKS;
    for (int b = 0; b < N_BLOCKS; b++)
        max[b] = -INFINITY;
    for (int v = 0; v < TOY_VOCAB; v++) {
        uint64_t h = mix(chain, (uint64_t)v + 1000003u);
        row[v] = (float)((int)(h % 65) - 32) * 0.125f + (h >> 40) % 41 / 40 * 5.0f + (v == TOY_EOS || v == TOY_EOT ? 0.25f : 0.0f);
        if (row[v] > max[v / SCORES_BLOCK])
            max[v / SCORES_BLOCK] = row[v];
    }
}

static const float *toy_row(void *ctx, int i)
{
    const struct toy *t = ctx;
    assert(i >= t->first_score && i < t->first_score + t->n_scores);
    return t->logits + (size_t)(i - t->first_score) * TOY_VOCAB;
}

static const float *toy_block_max(void *ctx, int i)
{
    const struct toy *t = ctx;
    assert(i >= t->first_score && i < t->first_score + t->n_scores);
    return t->block_max + (size_t)(i - t->first_score) * N_BLOCKS;
}

/* The scores of at most max_scores wanted rows from `first` on. */
static void toy_scores(struct toy *t, const struct batch *b, int first, struct scores *scores_out)
{
    t->first_score = first;
    t->n_scores = b->n_out - first < t->opt.max_scores ? b->n_out - first : t->opt.max_scores;
    for (int i = 0; i < t->n_scores; i++) {
        int row = b->out[first + i];
        fill_logits(t, i, cell(t, b, b->seq[row], b->pos[row])->chain);
    }
    *scores_out = (struct scores){
        .first = first, .n_out = t->n_scores, .n_vocab = TOY_VOCAB, .ctx = t, .row = toy_row, .block_max = toy_block_max};
}

static int toy_forward(void *ctx, const struct batch *b, struct scores *scores_out, struct err *err)
{
    struct toy *t = ctx;
    t->n_forward++;
    if (t->opt.fail_at != 0 && t->n_forward >= t->opt.fail_at)
        return err_set(err, ERR_DEVICE, "the toy broke at step %ld", t->n_forward);
    check_batch(t, b);
    t->n_rows += b->n_rows;
    t->most_rows = b->n_rows > t->most_rows ? b->n_rows : t->most_rows;
    for (int r = 0; r < b->n_rows; r++) {
        int pos = b->pos[r];
        uint64_t before = pos > 0 ? cell(t, b, b->seq[r], pos - 1)->chain : CHAIN_SEED;
        *cell(t, b, b->seq[r], pos) =
            (struct toy_cell){.token = b->token[r], .pos = pos, .chain = mix(mix(before, (uint64_t)b->token[r]), (uint64_t)pos)};
    }
    for (int r = 0; r < b->n_rows; r++) /* after all writes: nobody wrote into a neighbour's page */
        if (r + 1 == b->n_rows || b->seq[r + 1] != b->seq[r])
            check_chain(t, b, b->seq[r], b->pos[r]);
    toy_scores(t, b, 0, scores_out);
    return 0;
}

static int toy_next_scores(void *ctx, const struct batch *b, struct scores *scores, struct err *err)
{
    struct toy *t = ctx;
    assert(scores->first + scores->n_out < b->n_out);
    if (t->opt.fail_at_group != 0 && ++t->n_groups >= t->opt.fail_at_group)
        return err_set(err, ERR_DEVICE, "the toy broke at group %ld", t->n_groups);
    toy_scores(t, b, scores->first + scores->n_out, scores);
    return 0;
}

static void toy_copy_page(void *ctx, int dst, int src, int n_pos)
{
    struct toy *t = ctx;
    assert(dst != src);
    assert(n_pos > 0 && n_pos < KV_PAGE);
    t->n_copies++;
    struct toy_cell *to = t->cells + dst * KV_PAGE, *from = t->cells + src * KV_PAGE;
    memcpy(to, from, sizeof *to * (size_t)n_pos);
    for (int i = n_pos; i < KV_PAGE; i++)
        to[i] = (struct toy_cell){.token = -1, .pos = -1};
}

static void toy_share(void *ctx, int n, void (*fn)(void *arg, int i), void *arg)
{
    struct toy *t = ctx;
    assert(n <= t->opt.n_threads);
    t->n_shared++;
    pool_share(t->pool, n, fn, arg);
}

struct runner toy_runner(struct toy *t)
{
    return (struct runner){.ctx = t,
                           .n_vocab = TOY_VOCAB,
                           .n_ctx_train = t->opt.n_ctx,
                           .n_pages = t->opt.n_pages,
                           .max_rows = t->opt.max_rows,
                           .max_out = t->opt.max_out,
                           .n_threads = t->opt.n_threads,
                           .forward = toy_forward,
                           .next_scores = toy_next_scores,
                           .copy_page = toy_copy_page,
                           .share = toy_share};
}

/* The character that stands for a byte in a byte-level vocabulary, as UTF-8 (GPT-2's table: printable bytes are themselves, others follow U+0100). */
static int spell_byte(int byte, char *out)
{
    int code = byte, next = 256;
    for (int b = 0; b <= byte; b++) {
        bool itself = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        code = itself ? b : next;
        next += !itself;
    }
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    out[0] = (char)(0xc0 | code >> 6);
    out[1] = (char)(0x80 | (code & 63));
    return 2;
}

struct tokenizer *toy_tokenizer(void)
{
    static const char *const control[3] = {"<s>", "</s>", "<|im_end|>"};
    static char spelling[TOY_VOCAB][16], merge[TOY_VOCAB][4];
    struct token_str tokens[TOY_VOCAB], merges[TOY_VOCAB];
    int32_t types[TOY_VOCAB];
    size_t n_merges = 0;
    for (int i = 0; i < TOY_VOCAB; i++) {
        int n = 2, pair = i - 259;
        types[i] = i < 3 ? TOKEN_CONTROL : TOKEN_NORMAL;
        if (i < 3) {
            n = snprintf(spelling[i], sizeof spelling[i], "%s", control[i]);
        } else if (i < 259) {
            n = spell_byte(i - 3, spelling[i]);
        } else {
            spelling[i][0] = (char)('a' + pair % 26);
            spelling[i][1] = (char)('a' + pair / 26);
            snprintf(merge[n_merges], sizeof merge[0], "%c %c", spelling[i][0], spelling[i][1]);
            merges[n_merges] = (struct token_str){.p = merge[n_merges], .n = 3};
            n_merges++;
        }
        tokens[i] = (struct token_str){.p = spelling[i], .n = (size_t)n};
    }
    struct vocab vocab = {.model = "gpt2", .pre = "gpt-2", .n_tokens = TOY_VOCAB, .tokens = tokens, .types = types, .n_merges = n_merges,
                          .merges = merges, .bos = TOY_BOS, .eos = TOY_EOS, .eot = TOY_EOT, .eom = -1, .unk = -1, .pad = -1,
                          .add_bos = 0, .add_eos = 0, .add_space_prefix = 0};
    struct tokenizer *tok;
    struct err err;
    if (tokenizer_create(&vocab, &tok, &err) != 0) {
        fprintf(stderr, "toy_tokenizer: %s\n", err.msg);
        abort();
    }
    return tok;
}
