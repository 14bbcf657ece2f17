/* notify.h: what systemd is told, and what it hands over. Every call does nothing, and says so by its result, where nextd was not started by systemd.
 * The protocol is libsystemd's (NOTIFY_SOCKET, LISTEN_FDS, WATCHDOG_USEC). */
#ifndef NEXTD_NOTIFY_H
#define NEXTD_NOTIFY_H

#include <stdbool.h>
#include <stdint.h>

void notify_ready(const char *status);
void notify_stopping(const char *status);
void notify_status(const char *status);
/* Loading goes on: do not give up within the next so many seconds. */
void notify_extend(const char *status, int timeout_s);
void notify_alive(void);
/* Milliseconds within which notify_alive is expected, or 0: no watchdog. */
uint64_t notify_watchdog_ms(void);
/* Sockets handed over, in order; returns their number, 0 if there are none, of which at most max are written. */
int notify_listen_fds(int *fds, int max);

#endif
