/* bridge.c: see bridge.h. The engine wakes the loop once for many events (app_notify); one poll takes them all. Text of several tokens of one
 * stream within a turn leaves in one write, because http flushes at the turn's end. */
#include "server/bridge.h"

#include "server/completion.h"

void bridge_poll(struct app *app)
{
    const struct engine_event *events;
    if (app->engine == NULL || app->destroyed)
        return;
    size_t n = engine_poll(app->engine, &events);
    for (size_t i = 0; i < n; i++)
        completion_event(&events[i]);
}
