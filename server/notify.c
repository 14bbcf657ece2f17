/* notify.c: libsystemd, and nothing else of it. See notify.h. */
#include "server/notify.h"

#include <systemd/sd-daemon.h>

void notify_ready(const char *status)
{
    sd_notifyf(0, "READY=1\nSTATUS=%s", status);
}

void notify_stopping(const char *status)
{
    sd_notifyf(0, "STOPPING=1\nSTATUS=%s", status);
}

void notify_status(const char *status)
{
    sd_notifyf(0, "STATUS=%s", status);
}

void notify_extend(const char *status, int timeout_s)
{
    sd_notifyf(0, "EXTEND_TIMEOUT_USEC=%lld\nSTATUS=%s", timeout_s * 1000000LL, status);
}

void notify_alive(void)
{
    sd_notify(0, "WATCHDOG=1");
}

uint64_t notify_watchdog_ms(void)
{
    uint64_t us = 0;
    return sd_watchdog_enabled(0, &us) > 0 ? us / 1000 : 0;
}

int notify_listen_fds(int *fds, int max)
{
    int n = sd_listen_fds(1); /* and forget it, so that no child takes them for its own */
    for (int i = 0; i < n && i < max; i++)
        fds[i] = SD_LISTEN_FDS_START + i;
    return n < 0 ? 0 : n;
}
