/* serve.h: `nextd serve`, the daemon. */
#ifndef NEXTD_SERVE_H
#define NEXTD_SERVE_H

#include "server/options.h"

/* Serves until SIGTERM or SIGINT. Returns the process's exit status: 0 after a clean end, 1 after a failure, which has been logged. Main thread. */
int serve_run(const struct options *opt);

#endif
