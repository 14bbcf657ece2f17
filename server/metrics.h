/* metrics.h: counters and histograms of the service, printed in Prometheus' text format with vLLM's names and units under `nextd:`, so that
 * dashboards carry over. Loop thread only. */
#ifndef NEXTD_METRICS_H
#define NEXTD_METRICS_H

#include "engine/engine.h"
#include "server/buf.h"

#define METRICS_MAX_BUCKETS 32
#define METRICS_MAX_ROUTES 16

struct metrics_histogram {
    const double *bounds; /* ascending; +Inf is implied */
    int n_bounds;
    uint64_t counts[METRICS_MAX_BUCKETS + 1];
    uint64_t total;
    double sum;
};

enum metrics_status { METRICS_2XX, METRICS_3XX, METRICS_4XX, METRICS_429, METRICS_5XX, METRICS_N_STATUS };

struct metrics {
    struct metrics_histogram ttft, inter_token, e2e, queue, prompt_tokens, output_tokens;
    uint64_t finished[ENGINE_FINISH_ERROR + 1];         /* choices by finish reason */
    uint64_t replies[METRICS_MAX_ROUTES][METRICS_N_STATUS];
    uint64_t disconnects;                               /* clients that left before their answer's end */
    uint64_t write_stalls;                              /* of those, the ones that had stopped reading */
    uint64_t paused;                                    /* times a stream hit its output limit */
};

void metrics_init(struct metrics *m);
void metrics_observe(struct metrics_histogram *h, double value, uint64_t n_times);
void metrics_count_reply(struct metrics *m, int route_idx, int status);

/* What the text says beyond the counters above. */
struct metrics_facts {
    const char *model_name;           /* NULL while loading */
    const struct engine_info *info;   /* NULL while loading */
    const struct engine_stats *stats; /* NULL while loading */
    const char *const *route_names;   /* [n_routes] */
    int n_routes;
    size_t n_connections;
    size_t n_requests;                /* accepted and not ended */
};
void metrics_print(const struct metrics *m, const struct metrics_facts *facts, struct buf *out);

#endif
