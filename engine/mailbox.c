/* mailbox.c: one lock, taken once per step by the engine thread and once per call by the loop.
 *
 *   engine thread                 lock                  loop thread
 *   fill ──────────────▶ ready ──────────────────────▶ read
 *        append per step          swap per poll
 *   taken ◀───────────── posted ◀───────────────────── post
 *
 * `fill` is private to the engine thread and always has room for a whole step. `ready` collects steps until the loop polls; the loop is woken only
 * when it was empty. `read` is the loop's until its next poll. An event points into its buffer's bytes, so appending moves the pointers along;
 * pointers to anything else (a request's own memory) stay.
 *
 * A request ends on the engine thread and is freed by the loop thread. `ended` is set under the lock together with the handing over of its END, and
 * mailbox_exchange drops the commands of ended nodes under the same lock; so once the loop has polled an END the engine thread holds no way to it. */
#include "engine/mailbox.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define READY_STEPS 2 /* whole worst-case steps that may wait; typical ones number hundreds */
#define ALIGN 16u

struct buffer {
    struct engine_event *events;
    size_t n, cap;
    char *bytes;
    size_t used, cap_bytes;
};

struct mailbox {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    void (*notify)(void *arg);
    void *notify_arg;
    size_t step_events, step_bytes;

    struct mail_node *posted, *posted_last;
    struct buffer ready, read, fill;
    bool shut;
    int n_live;
    struct mail_figures figures;

    /* Engine thread: of this step. */
    struct mail_node *ended;
    int n_released;
};

static bool buffer_init(struct buffer *b, size_t events, size_t bytes)
{
    b->cap = events;
    b->cap_bytes = bytes;
    b->events = malloc(events * sizeof *b->events);
    b->bytes = aligned_alloc(ALIGN, (bytes + ALIGN - 1) / ALIGN * ALIGN);
    return b->events != NULL && b->bytes != NULL;
}

static void buffer_finish(struct buffer *b)
{
    free(b->events);
    free(b->bytes);
}

struct mailbox *mailbox_create(size_t step_events, size_t step_bytes, const struct mail_figures *figures, void (*notify)(void *arg),
                               void *notify_arg)
{
    struct mailbox *m = calloc(1, sizeof *m);
    if (m == NULL)
        return NULL;
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->wake, NULL);
    m->figures = *figures;
    m->notify = notify;
    m->notify_arg = notify_arg;
    m->step_events = step_events;
    m->step_bytes = step_bytes;
    bool fill = buffer_init(&m->fill, step_events, step_bytes);
    bool ready = buffer_init(&m->ready, step_events * READY_STEPS, step_bytes * READY_STEPS);
    bool read = buffer_init(&m->read, step_events * READY_STEPS, step_bytes * READY_STEPS);
    if (fill && ready && read)
        return m;
    mailbox_destroy(m);
    return NULL;
}

void mailbox_destroy(struct mailbox *m)
{
    if (m == NULL)
        return;
    buffer_finish(&m->fill);
    buffer_finish(&m->ready);
    buffer_finish(&m->read);
    pthread_cond_destroy(&m->wake);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

/* ---- loop thread ---- */

static void unlink_node(struct mailbox *m, struct mail_node *node)
{
    if (node->prev != NULL)
        node->prev->next = node->next;
    else
        m->posted = node->next;
    if (node->next != NULL)
        node->next->prev = node->prev;
    else
        m->posted_last = node->prev;
    node->linked = false;
}

void mailbox_post(struct mailbox *m, struct mail_node *node, unsigned command)
{
    pthread_mutex_lock(&m->lock);
    if (command & (MAIL_PAUSE | MAIL_RESUME))
        node->bits &= ~(unsigned)(MAIL_PAUSE | MAIL_RESUME);
    node->bits |= command;
    if (!node->linked) {
        node->linked = true;
        node->next = NULL;
        node->prev = m->posted_last;
        if (m->posted_last != NULL)
            m->posted_last->next = node;
        else
            m->posted = node;
        m->posted_last = node;
    }
    pthread_cond_signal(&m->wake);
    pthread_mutex_unlock(&m->lock);
}

size_t mailbox_poll(struct mailbox *m, const struct engine_event **events_out)
{
    pthread_mutex_lock(&m->lock);
    m->read.n = m->read.used = 0;
    struct buffer full = m->ready;
    m->ready = m->read;
    m->read = full;
    pthread_cond_signal(&m->wake);
    pthread_mutex_unlock(&m->lock);
    *events_out = full.events;
    return full.n;
}

void mailbox_forget(struct mailbox *m, struct mail_node *node)
{
    pthread_mutex_lock(&m->lock);
    if (node->linked)
        unlink_node(m, node);
    pthread_mutex_unlock(&m->lock);
}

bool mailbox_reserve(struct mailbox *m, int n, int capacity, int *n_live_out)
{
    pthread_mutex_lock(&m->lock);
    *n_live_out = m->n_live;
    bool fits = n <= capacity - m->n_live;
    if (fits)
        m->n_live += n;
    pthread_mutex_unlock(&m->lock);
    return fits;
}

void mailbox_unreserve(struct mailbox *m, int n)
{
    pthread_mutex_lock(&m->lock);
    m->n_live -= n;
    pthread_mutex_unlock(&m->lock);
}

void mailbox_shut(struct mailbox *m)
{
    pthread_mutex_lock(&m->lock);
    m->shut = true;
    pthread_cond_signal(&m->wake);
    pthread_mutex_unlock(&m->lock);
}

struct mail_figures mailbox_figures(struct mailbox *m)
{
    pthread_mutex_lock(&m->lock);
    struct mail_figures figures = m->figures;
    pthread_mutex_unlock(&m->lock);
    return figures;
}

/* ---- engine thread ---- */

struct engine_event *mailbox_event(struct mailbox *m)
{
    assert(m->fill.n < m->fill.cap);
    struct engine_event *event = &m->fill.events[m->fill.n++];
    memset(event, 0, sizeof *event);
    return event;
}

void *mailbox_bytes(struct mailbox *m, size_t n)
{
    n = (n + ALIGN - 1) / ALIGN * ALIGN;
    assert(n <= m->fill.cap_bytes - m->fill.used);
    void *bytes = m->fill.bytes + m->fill.used;
    m->fill.used += n;
    return bytes;
}

void mailbox_trim(struct mailbox *m, const void *bytes, size_t n)
{
    size_t used = (size_t)((const char *)bytes - m->fill.bytes) + (n + ALIGN - 1) / ALIGN * ALIGN;
    assert(used <= m->fill.used);
    m->fill.used = used;
}

void mailbox_ended(struct mailbox *m, struct mail_node *node)
{
    node->taken_next = m->ended;
    m->ended = node;
}

void mailbox_release(struct mailbox *m, int n_seqs)
{
    m->n_released += n_seqs;
}

static const void *moved(const struct buffer *from, const struct buffer *to, const void *p)
{
    const char *q = p;
    if (q == NULL || q < from->bytes || q >= from->bytes + from->cap_bytes)
        return p;
    return to->bytes + to->used + (q - from->bytes);
}

/* Appends fill to ready and empties it. */
static void append(struct mailbox *m)
{
    struct buffer *from = &m->fill, *to = &m->ready;
    assert(from->n <= to->cap - to->n);
    assert(from->used <= to->cap_bytes - to->used);
    for (size_t i = 0; i < from->n; i++) {
        struct engine_event *event = &to->events[to->n + i];
        *event = from->events[i];
        event->text = moved(from, to, event->text);
        struct engine_token *tokens = (struct engine_token *)moved(from, to, event->tokens);
        if (tokens != event->tokens) /* the step's own: their tops lie there too */
            for (size_t k = 0; k < event->n_tokens; k++)
                ((struct engine_token *)event->tokens)[k].top = moved(from, to, event->tokens[k].top);
        event->tokens = tokens;
    }
    memcpy(to->bytes + to->used, from->bytes, from->used);
    to->n += from->n;
    to->used += from->used;
    from->n = from->used = 0;
}

static bool has_room(const struct mailbox *m)
{
    return m->ready.cap - m->ready.n >= m->step_events && m->ready.cap_bytes - m->ready.used >= m->step_bytes;
}

static struct mail_node *take(struct mailbox *m)
{
    struct mail_node *first = NULL, **tail = &first;
    for (struct mail_node *node = m->posted; node != NULL; node = node->next) {
        node->linked = false;
        if (node->ended)
            continue;
        node->taken_bits = node->bits;
        node->bits = 0;
        *tail = node;
        tail = &node->taken_next;
    }
    *tail = NULL;
    m->posted = m->posted_last = NULL;
    return first;
}

bool mailbox_exchange(struct mailbox *m, const struct mail_figures *figures, bool idle, struct mail_node **taken_out)
{
    pthread_mutex_lock(&m->lock);
    bool wake_loop = m->ready.n == 0 && m->fill.n > 0;
    append(m);
    m->figures = *figures;
    m->n_live -= m->n_released;
    m->n_released = 0;
    for (; m->ended != NULL; m->ended = m->ended->taken_next)
        m->ended->ended = true;
    if (wake_loop && m->notify != NULL) {
        pthread_mutex_unlock(&m->lock);
        m->notify(m->notify_arg);
        pthread_mutex_lock(&m->lock);
    }
    while (!m->shut && ((idle && m->posted == NULL) || !has_room(m)))
        pthread_cond_wait(&m->wake, &m->lock);
    *taken_out = take(m);
    bool open = !m->shut;
    pthread_mutex_unlock(&m->lock);
    return open;
}
