/* The mailbox: nothing is lost between a fast engine thread and a loop that lags, nothing grows, commands to ended requests vanish. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/mailbox.h"

#define N_EVENTS 5000

static const struct mail_figures no_figures;

static void notify(void *arg)
{
    sem_post(arg);
}

/* An engine thread that says N_EVENTS things, three a step, each with text, a token and its rivals. */
static void *talk(void *arg)
{
    struct mailbox *m = arg;
    struct mail_node *taken;
    for (int i = 0; i < N_EVENTS; i++) {
        struct engine_event *event = mailbox_event(m);
        event->id = (uint64_t)i;
        char *text = mailbox_bytes(m, 64);
        event->n_text = (size_t)snprintf(text, 64, "event %d", i);
        event->text = text;
        mailbox_trim(m, text, event->n_text);
        struct engine_token *token = mailbox_bytes(m, sizeof *token);
        struct engine_logprob *top = mailbox_bytes(m, 2 * sizeof *top);
        top[0] = (struct engine_logprob){.id = i, .logprob = 1};
        top[1] = (struct engine_logprob){.id = -i, .logprob = 2};
        *token = (struct engine_token){.id = i, .n_top = 2, .top = top};
        event->tokens = token;
        event->n_tokens = 1;
        if (i % 3 == 2 && !mailbox_exchange(m, &no_figures, false, &taken))
            return NULL;
    }
    mailbox_exchange(m, &no_figures, true, &taken);
    return NULL;
}

static void a_lagging_loop_gets_everything_in_order(void **state)
{
    (void)state;
    sem_t wake;
    sem_init(&wake, 0, 0);
    struct mailbox *m = mailbox_create(3, 600, &no_figures, notify, &wake); /* room for a few steps alone */
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, talk, m), 0);
    for (int next = 0; next < N_EVENTS;) {
        while (sem_wait(&wake) != 0)
            assert_int_equal(errno, EINTR);
        const struct engine_event *events;
        size_t n = mailbox_poll(m, &events);
        assert_true(n <= 6);
        for (size_t i = 0; i < n; i++, next++) {
            char want[64];
            snprintf(want, sizeof want, "event %d", next);
            assert_int_equal(events[i].id, next);
            assert_int_equal(events[i].n_text, strlen(want));
            assert_memory_equal(events[i].text, want, strlen(want));
            assert_int_equal(events[i].tokens[0].top[0].id, next);
            assert_int_equal(events[i].tokens[0].top[1].id, -next);
        }
        for (int i = 0; i < next % 5; i++)
            sched_yield();
    }
    mailbox_shut(m);
    pthread_join(thread, NULL);
    mailbox_destroy(m);
    sem_destroy(&wake);
}

static void commands_gather_on_their_node(void **state)
{
    (void)state;
    struct mailbox *m = mailbox_create(4, 64, &no_figures, NULL, NULL);
    struct mail_node a = {0}, b = {0}, *taken;
    mailbox_post(m, &a, MAIL_SUBMIT);
    mailbox_post(m, &b, MAIL_SUBMIT);
    mailbox_post(m, &a, MAIL_PAUSE);
    mailbox_post(m, &a, MAIL_RESUME); /* replaces the pause */
    mailbox_post(m, &b, MAIL_CANCEL);
    assert_true(mailbox_exchange(m, &no_figures, false, &taken));
    assert_ptr_equal(taken, &a);
    assert_int_equal(a.taken_bits, MAIL_SUBMIT | MAIL_RESUME);
    assert_ptr_equal(a.taken_next, &b);
    assert_int_equal(b.taken_bits, MAIL_SUBMIT | MAIL_CANCEL);
    assert_null(b.taken_next);
    assert_true(mailbox_exchange(m, &no_figures, false, &taken));
    assert_null(taken);
    mailbox_shut(m);
    assert_false(mailbox_exchange(m, &no_figures, true, &taken));
    mailbox_destroy(m);
    mailbox_destroy(NULL);
}

static void a_command_to_an_ended_request_reaches_nobody(void **state)
{
    (void)state;
    struct mailbox *m = mailbox_create(4, 64, &no_figures, NULL, NULL);
    struct mail_node a = {0}, b = {0}, *taken;
    const struct engine_event *events;
    mailbox_event(m)->type = ENGINE_END;
    mailbox_ended(m, &a);
    mailbox_post(m, &a, MAIL_CANCEL); /* the loop does not know yet */
    assert_true(mailbox_exchange(m, &no_figures, false, &taken));
    assert_null(taken);
    mailbox_event(m)->type = ENGINE_END;
    mailbox_ended(m, &b);
    assert_true(mailbox_exchange(m, &no_figures, false, &taken));
    mailbox_post(m, &b, MAIL_CANCEL);
    assert_int_equal(mailbox_poll(m, &events), 2);
    mailbox_forget(m, &b); /* its memory goes now */
    memset(&b, 0xff, sizeof b);
    assert_true(mailbox_exchange(m, &no_figures, false, &taken));
    assert_null(taken);
    mailbox_destroy(m);
}

static void places_are_taken_and_given_back(void **state)
{
    (void)state;
    struct mailbox *m = mailbox_create(4, 64, &no_figures, NULL, NULL);
    struct mail_node *taken;
    int n_live;
    assert_true(mailbox_reserve(m, 3, 5, &n_live));
    assert_false(mailbox_reserve(m, 3, 5, &n_live));
    assert_int_equal(n_live, 3);
    assert_true(mailbox_reserve(m, 2, 5, &n_live));
    mailbox_unreserve(m, 2);
    mailbox_release(m, 1);
    mailbox_exchange(m, &no_figures, false, &taken);
    assert_true(mailbox_reserve(m, 3, 5, &n_live));
    assert_false(mailbox_reserve(m, 1, 5, &n_live));
    mailbox_destroy(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_lagging_loop_gets_everything_in_order),
        cmocka_unit_test(commands_gather_on_their_node),
        cmocka_unit_test(a_command_to_an_ended_request_reaches_nobody),
        cmocka_unit_test(places_are_taken_and_given_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
