/* bridge.h: the engine's events, carried to the loop. */
#ifndef NEXTD_BRIDGE_H
#define NEXTD_BRIDGE_H

#include "server/app_state.h"

/* Takes all waiting events and hands each to its completion. Loop thread. */
void bridge_poll(struct app *app);

#endif
