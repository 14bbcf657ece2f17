/* test_walk.c: where a device goes wrong, gpu_check finds the operation, layer, row and value; where it does not, nothing. One bit is turned in the
 * emulated device's memory after an operation, as a faulty kernel would have left it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "engine/backend/cuda/cuda.h"
#include "tests/gpu/walk.h"

#define FILE_NAME "build/test_walk.gguf"

/* Turns the lowest bit of the byte at `where` bytes behind what `place` points to, once: after `op` of `layer`. */
struct plant {
    const char *op;
    int layer;
    enum { IN_X, IN_QKV, IN_KEYS, IN_O, IN_A, IN_H, IN_SCORES, NOWHERE } place;
    int row, byte;
    const char *told; /* must be in what is said */
    int n_planted;
};

/* The start of a row, for a case of one page a sequence. */
static uint8_t *row_of(struct cuda *c, const struct plant *p)
{
    const size_t r = (size_t)p->row;
    switch (p->place) {
    case IN_X:
        return (uint8_t *)(c->x.p + r * (size_t)c->x.ld);
    case IN_QKV:
        return (uint8_t *)(c->qkv.p + r * (size_t)c->qkv.ld);
    case IN_KEYS: /* of layer 1, position `row` of the first sequence, whose first page is page 0 */
        return (uint8_t *)(c->kv.base + (size_t)c->kv.n_kv * c->kv.head_elems + r * 8);
    case IN_O:
        return (uint8_t *)(c->o.p + r * (size_t)c->o.ld);
    case IN_A:
        return (uint8_t *)(c->a.q + r * (size_t)c->a.n_blocks * DEVICE_BLOCK);
    case IN_H:
        return (uint8_t *)(c->h.q + r * (size_t)c->h.n_blocks * DEVICE_BLOCK);
    case IN_SCORES:
    case NOWHERE:
        break;
    }
    return (uint8_t *)(c->flights[c->next_flight].scores + r * c->scores_ld);
}

static void turn(void *arg, struct backend *be, const char *op, int layer)
{
    struct plant *p = arg;
    struct cuda *c = cuda_of(be);
    uint8_t byte;
    if (p->place == NOWHERE || p->n_planted > 0 || strcmp(op, p->op) != 0 || layer != p->layer)
        return;
    uint8_t *at = row_of(c, p) + p->byte;
    assert_int_equal(cudaStreamSynchronize(c->stream), cudaSuccess);
    assert_int_equal(cudaMemcpy(&byte, at, 1, cudaMemcpyDeviceToHost), cudaSuccess);
    byte ^= 1;
    assert_int_equal(cudaMemcpy(at, &byte, 1, cudaMemcpyHostToDevice), cudaSuccess);
    p->n_planted++;
}

static const struct check_case *case_of(const char *name)
{
    for (int i = 0; i < n_check_cases; i++)
        if (strcmp(check_cases[i].model.name, name) == 0)
            return &check_cases[i];
    fail_msg("there is no case %s", name);
    return NULL;
}

static struct difference find(const char *name, struct plant *p)
{
    const struct check_case *c = case_of(name);
    struct world cpu, gpu;
    struct difference d;
    struct err err;
    assert_int_equal(random_model_write(&c->model, FILE_NAME), 0);
    if (world_open(&cpu, FILE_NAME, "cpu", 1, 10, 2, &err) != 0 || world_open(&gpu, FILE_NAME, "cuda:0:eager", 1, 10, 2, &err) != 0)
        fail_msg("%s", err.msg);
    remove(FILE_NAME);
    if (walk(&cpu, &peek_cpu, &gpu, &peek_cuda, turn, p, &d, &err) != 0)
        fail_msg("%s", err.msg);
    world_close(&cpu);
    world_close(&gpu);
    return d;
}

static void test_equal_devices_do_not_differ(void **state)
{
    (void)state;
    static const char *const names[] = {"type-f16", "type-q4_1", "qwen2-biases", "qwen3-norms", "gemma3-windows"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct plant none = {.place = NOWHERE};
        struct difference d = find(names[i], &none);
        if (d.found)
            fail_msg("%s: %s", names[i], d.text);
    }
}

static void test_one_wrong_bit_is_found_where_it_is(void **state)
{
    (void)state;
    struct plant plants[] = {
        {"embed", -1, IN_X, 3, 4 * 7, "step 0-prompt, embed: X of row 3 (sequence 0, position 3), value 7 of 96:", 0},
        {"norm", 0, IN_A, 2, 40, "layer 0, norm: operand A of row 2 (sequence 0, position 2), value 41 of 99:", 0},
        {"qkv", 1, IN_QKV, 9, 4 * 319, "layer 1, qkv: QKV of row 9 (sequence 0, position 9), value 319 of 320:", 0},
        {"rope_store", 1, IN_KEYS, 5, 2 * 3, "layer 1, rope_store: keys and values of row 5 (sequence 0, position 5), value 3 of 160:", 0},
        {"attend", 0, IN_O, 4, 4 * 159, "layer 0, attend: O of row 4 (sequence 0, position 4), value 159 of 160:", 0},
        {"project_o", 1, IN_X, 0, 0, "layer 1, project_o: X of row 0 (sequence 0, position 0), value 0 of 96:", 0},
        {"gate_up", 1, IN_H, 1, 64, "layer 1, gate_up: operand H of row 1 (sequence 0, position 1), value 66 of 165:", 0},
        {"project_h", 0, IN_X, 9, 4 * 95, "layer 0, project_h: X of row 9 (sequence 0, position 9), value 95 of 96:", 0},
        {"vocab", -1, IN_SCORES, 8, 4 * 299, "step 0-prompt, vocab: scores of row 8 (sequence 0, position 8), value 299 of 302:", 0},
    };
    for (size_t i = 0; i < sizeof plants / sizeof *plants; i++) {
        struct difference d = find("type-q4_1", &plants[i]);
        assert_int_equal(plants[i].n_planted, 1);
        if (!d.found || strstr(d.text, plants[i].told) == NULL)
            fail_msg("after %s: \"%s\", not \"%s\"", plants[i].op, d.text, plants[i].told);
        assert_non_null(strstr(d.text, "; 1 values of 1 rows differ"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal_devices_do_not_differ),
        cmocka_unit_test(test_one_wrong_bit_is_found_where_it_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
