/* open.c: engine_open, from a model file and a machine to an engine.
 *
 * The plan: threads are the physical cores that the process may use; the context is what the model was trained for unless the options say less; the
 * KV pool is what max_seqs sequences of a whole context would take, but at most a quarter of the memory that is left beside the weights, or seven
 * eighths of a GPU's, which is there for nothing else. So the pool may be smaller than the sum of all contexts: that is the normal case, and
 * preemption takes care of it. */
#include "engine/engine.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <assert.h>
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistring/version.h>

#include "engine/engine_internal.h"
#include "engine/machine.h"
#include "engine/model/device.h"
#include "engine/model/model.h"
#include "engine/numerics/numerics.h"

#define MAX_SEQS 1024
#define MAX_QUEUE 65536
#define MAX_CHUNK 8192
#define MAX_KV_TOKENS (1 << 28)
#define KV_EIGHTHS 2     /* the pool takes at most so many eighths of the memory that is left, */
#define KV_EIGHTHS_GPU 7 /* and of a device's own; the buffers of a step take from the rest */
#define OUT_ROWS 64     /* wanted rows of a step at least, so that scoring a prompt does not go one by one */
#define TEXT_BYTES 128

/* What engine_open makes and engine_close ends. */
struct loaded {
    struct model *model;
    struct tokenizer *tok;
    struct device_choice device;
    char stem[256], numerics[256], bos[TEXT_BYTES], eos[TEXT_BYTES];
};

static void loaded_destroy(void *ctx)
{
    struct loaded *l = ctx;
    tokenizer_destroy(l->tok);
    model_close(l->model);
    free(l);
}

static int check_options(const struct engine_options *opt, struct err *err)
{
    if (opt->max_seqs < 1 || opt->max_seqs > MAX_SEQS)
        return err_set_param(err, ERR_INVALID, "max-seqs", "max-seqs is %d; it must be 1 to %d", opt->max_seqs, MAX_SEQS);
    if (opt->max_queue < 0 || opt->max_queue > MAX_QUEUE)
        return err_set_param(err, ERR_INVALID, "queue", "queue is %d; it must be 0 to %d", opt->max_queue, MAX_QUEUE);
    if (opt->chunk < 1 || opt->chunk > MAX_CHUNK)
        return err_set_param(err, ERR_INVALID, "chunk", "chunk is %d; it must be 1 to %d", opt->chunk, MAX_CHUNK);
    if (opt->n_ctx < 0 || opt->n_kv_tokens < 0 || opt->n_kv_tokens > MAX_KV_TOKENS || opt->n_threads < 0 || opt->n_threads > 1024)
        return err_set_param(err, ERR_INVALID, "ctx", "ctx %d, kv-tokens %d or threads %d is out of range", opt->n_ctx, opt->n_kv_tokens,
                             opt->n_threads);
    return 0;
}

/* What loading takes, with room for the buffers of a step. */
static uint64_t weight_room(const struct model_info *info)
{
    return info->weight_bytes + info->weight_bytes / 8;
}

/* Pages of the KV pool. */
static int plan_pages(const struct engine_options *opt, const struct model_info *info, const struct device_choice *device)
{
    uint64_t tokens = (uint64_t)opt->n_kv_tokens;
    if (tokens == 0) {
        int n_ctx = opt->n_ctx > 0 && opt->n_ctx < info->n_ctx_train ? opt->n_ctx : info->n_ctx_train;
        tokens = (uint64_t)opt->max_seqs * (uint64_t)n_ctx;
        bool own = device->free_bytes > 0;
        uint64_t available = own ? device->free_bytes : machine_available_bytes(), weights = weight_room(info);
        uint64_t share = available > weights ? (available - weights) / 8 * (own ? KV_EIGHTHS_GPU : KV_EIGHTHS) : 0;
        uint64_t most = share / (info->kv_bytes_per_pos + 1);
        if (available != 0 && tokens > most)
            tokens = most;
    }
    if (tokens > MAX_KV_TOKENS)
        tokens = MAX_KV_TOKENS;
    return tokens <= KV_PAGE ? 1 : (int)((tokens + KV_PAGE - 1) / KV_PAGE);
}

static int load(struct loaded *l, const struct engine_options *opt, int n_threads, struct err *err)
{
    struct vocab vocab;
    if (model_open(opt->model_path, &l->model, err) != 0 || model_vocab(l->model, &vocab, err) != 0 ||
        tokenizer_create(&vocab, &l->tok, err) != 0 ||
        device_choose(opt->device != NULL ? opt->device : "auto", weight_room(model_info(l->model)), &l->device, err) != 0)
        return -1;
    int max_rows = opt->max_seqs + opt->chunk, max_out = opt->max_seqs > OUT_ROWS ? opt->max_seqs : OUT_ROWS;
    struct model_options m = {.device = l->device.name,
                              .n_threads = n_threads,
                              .max_rows = max_rows,
                              .max_out = max_out < max_rows ? max_out : max_rows,
                              .max_seqs = opt->max_seqs,
                              .n_pages = plan_pages(opt, model_info(l->model), &l->device),
                              .progress = opt->progress,
                              .progress_arg = opt->progress_arg,
                              .stop_loading = opt->stop_loading};
    if (model_load(l->model, &m, err) != 0)
        return -1;
    model_drop_file(l->model);
    return 0;
}

static void name_stem(char *out, size_t n, const char *path)
{
    const char *slash = strrchr(path, '/');
    snprintf(out, n, "%s", slash != NULL ? slash + 1 : path);
    size_t length = strlen(out);
    if (length > 5 && strcmp(out + length - 5, ".gguf") == 0)
        out[length - 5] = 0;
}

/* Names the bits: whatever could change one stands here. The device does not: all give the same. */
static void name_numerics(char *out, size_t n)
{
    char pcre[64] = "", unicode[64] = "";
    if (pcre2_config(PCRE2_CONFIG_VERSION, NULL) < (int)sizeof pcre)
        pcre2_config(PCRE2_CONFIG_VERSION, pcre);
    if (pcre2_config(PCRE2_CONFIG_UNICODE_VERSION, NULL) < (int)sizeof unicode)
        pcre2_config(PCRE2_CONFIG_UNICODE_VERSION, unicode);
    pcre[strcspn(pcre, " ")] = 0; /* the date behind it says nothing more */
    int unistring = _libunistring_version >> 8; /* its tables of normal forms are its own */
    snprintf(out, n, "n%d exact, nextd %s, pcre2 %.16s, unicode %.16s, unistring %d.%d", NUMERICS_VERSION, NEXTD_VERSION, pcre, unicode,
             unistring >> 8, unistring & 0xff);
}

static void copy_spelling(const struct tokenizer *tok, int32_t id, char *out, size_t n)
{
    const char *p = "";
    size_t n_bytes = id >= 0 ? tokenizer_bytes(tok, id, true, &p) : 0;
    if (n_bytes >= n)
        n_bytes = 0;
    memcpy(out, p, n_bytes);
    out[n_bytes] = 0;
}

static struct engine_info describe(struct loaded *l, const struct engine_options *opt, int n_threads)
{
    const struct model_info *m = model_info(l->model);
    name_stem(l->stem, sizeof l->stem, opt->model_path);
    name_numerics(l->numerics, sizeof l->numerics);
    copy_spelling(l->tok, tokenizer_bos(l->tok), l->bos, sizeof l->bos);
    copy_spelling(l->tok, tokenizer_eos(l->tok), l->eos, sizeof l->eos);
    const struct model_graphs graphs = model_graphs(l->model);
    return (struct engine_info){.model_stem = l->stem,
                                .model_name = m->name,
                                .architecture = m->architecture,
                                .model_sha256 = m->sha256,
                                .numerics = l->numerics,
                                .device = model_device(l->model),
                                .device_note = l->device.note,
                                .chat_template = m->chat_template,
                                .bos_text = l->bos,
                                .eos_text = l->eos,
                                .n_threads = n_threads,
                                .n_params = m->n_params,
                                .weight_bytes = model_loaded_bytes(l->model),
                                .kv_bytes = model_kv_bytes(l->model),
                                .n_graphs = graphs.n,
                                .graph_nodes = graphs.n_nodes,
                                .graph_ms = graphs.ms,
                                .graph_bytes = graphs.n_bytes,
                                .model_mtime_s = m->mtime_s};
}

int engine_open(const struct engine_options *opt, struct engine **out, struct err *err)
{
    if (check_options(opt, err) != 0)
        return -1;
    struct loaded *l = calloc(1, sizeof *l);
    if (l == NULL)
        return err_set(err, ERR_NOMEM, "no memory for the engine");
    int n_threads = opt->n_threads > 0 ? opt->n_threads : machine_n_threads();
    if (load(l, opt, n_threads, err) != 0)
        goto fail;
    struct engine_parts parts = {
        .runner = model_runner(l->model), .tok = l->tok, .info = describe(l, opt, n_threads), .close = loaded_destroy, .close_ctx = l};
    if (engine_open_runner(opt, &parts, out, err) != 0)
        goto fail;
    return 0;

fail:
    loaded_destroy(l);
    return -1;
}
