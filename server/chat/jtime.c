/* jtime.c: strftime_now(format). The time is the request's (chat_input.now_s, UTC), names are English as in the C locale: the same request renders
 * the same bytes anywhere. Directives that ask for a time zone print nothing, as for Python's naive times. */
#include "server/chat/jeval.h"

#include <stdio.h>
#include <string.h>

struct jtime {
    int64_t year;
    int month, day, hour, minute, second, weekday, yearday; /* month from 1, weekday from Sunday = 0, yearday from 0 */
};

static const char *const jtime_days[] = {"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"};
static const char *const jtime_months[] = {"January", "February", "March", "April", "May", "June",
                                           "July", "August", "September", "October", "November", "December"};

static bool jtime_leap(int64_t year)
{
    return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

/* The civil date of a number of seconds, by the usual reckoning in eras of 400 years that begin in March. */
static struct jtime jtime_civil(int64_t now_s)
{
    static const int before[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
    int64_t days = now_s / 86400, rest = now_s % 86400;
    if (rest < 0) {
        rest += 86400;
        days--;
    }
    int64_t z = days + 719468, era = (z >= 0 ? z : z - 146096) / 146097, doe = z - era * 146097;
    int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365, doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;
    struct jtime t;
    t.day = (int)(doy - (153 * mp + 2) / 5 + 1);
    t.month = (int)(mp < 10 ? mp + 3 : mp - 9);
    t.year = yoe + era * 400 + (t.month <= 2);
    t.hour = (int)(rest / 3600);
    t.minute = (int)(rest / 60 % 60);
    t.second = (int)(rest % 60);
    t.weekday = (int)((days % 7 + 11) % 7);
    t.yearday = before[t.month - 1] + t.day - 1 + (t.month > 2 && jtime_leap(t.year));
    return t;
}

/* ISO 8601: the week and the year that week belongs to. */
static int jtime_iso_week(const struct jtime *t, int64_t *year)
{
    int monday = (t->weekday + 6) % 7, week = (t->yearday - monday + 10) / 7;
    *year = t->year;
    int64_t y = t->year - 1, last = y;
    if (week < 1) {
        int64_t dec31 = (y + y / 4 - y / 100 + y / 400) % 7, dec31_before = ((y - 1) + (y - 1) / 4 - (y - 1) / 100 + (y - 1) / 400) % 7;
        *year = last;
        return dec31 == 4 || dec31_before == 3 ? 53 : 52;
    }
    if (week == 53) {
        y = t->year;
        int64_t dec31 = (y + y / 4 - y / 100 + y / 400) % 7, dec31_before = ((y - 1) + (y - 1) / 4 - (y - 1) / 100 + (y - 1) / 400) % 7;
        if (dec31 != 4 && dec31_before != 3) {
            *year = t->year + 1;
            return 1;
        }
    }
    return week;
}

/* One directive; returns the length in text, -1 if it is not known. pad: '-' no padding, '_' blanks, '0' zeros, 0 as the directive has it. */
static int jtime_directive(const struct jtime *t, char c, char pad, int64_t now_s, char text[64])
{
    int64_t iso_year;
    int week = jtime_iso_week(t, &iso_year), hour12 = t->hour % 12 == 0 ? 12 : t->hour % 12;
    const char *two = pad == '-' ? "%lld" : pad == '_' ? "%2lld" : "%02lld";
    const char *two_blank = pad == '-' ? "%lld" : pad == '0' ? "%02lld" : "%2lld";
    const char *three = pad == '-' ? "%lld" : pad == '_' ? "%3lld" : "%03lld";
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    switch (c) {
    case 'a': return snprintf(text, 64, "%.3s", jtime_days[t->weekday]);
    case 'A': return snprintf(text, 64, "%s", jtime_days[t->weekday]);
    case 'b': case 'h': return snprintf(text, 64, "%.3s", jtime_months[t->month - 1]);
    case 'B': return snprintf(text, 64, "%s", jtime_months[t->month - 1]);
    case 'c':
        return snprintf(text, 64, "%.3s %.3s %2d %02d:%02d:%02d %lld", jtime_days[t->weekday], jtime_months[t->month - 1], t->day, t->hour, t->minute,
                        t->second, (long long)t->year);
    case 'C': return snprintf(text, 64, two, (long long)(t->year / 100));
    case 'd': return snprintf(text, 64, two, (long long)t->day);
    case 'D': case 'x': return snprintf(text, 64, "%02d/%02d/%02d", t->month, t->day, (int)(t->year % 100));
    case 'e': return snprintf(text, 64, two_blank, (long long)t->day);
    case 'f': return snprintf(text, 64, "000000");
    case 'F': return snprintf(text, 64, "%lld-%02d-%02d", (long long)t->year, t->month, t->day);
    case 'g': return snprintf(text, 64, two, (long long)(iso_year % 100));
    case 'G': return snprintf(text, 64, "%lld", (long long)iso_year);
    case 'H': return snprintf(text, 64, two, (long long)t->hour);
    case 'I': return snprintf(text, 64, two, (long long)hour12);
    case 'j': return snprintf(text, 64, three, (long long)t->yearday + 1);
    case 'k': return snprintf(text, 64, two_blank, (long long)t->hour);
    case 'l': return snprintf(text, 64, two_blank, (long long)hour12);
    case 'm': return snprintf(text, 64, two, (long long)t->month);
    case 'M': return snprintf(text, 64, two, (long long)t->minute);
    case 'n': return snprintf(text, 64, "\n");
    case 'p': return snprintf(text, 64, "%s", t->hour < 12 ? "AM" : "PM");
    case 'P': return snprintf(text, 64, "%s", t->hour < 12 ? "am" : "pm");
    case 'r': return snprintf(text, 64, "%02d:%02d:%02d %s", hour12, t->minute, t->second, t->hour < 12 ? "AM" : "PM");
    case 'R': return snprintf(text, 64, "%02d:%02d", t->hour, t->minute);
    case 's': return snprintf(text, 64, "%lld", (long long)now_s);
    case 'S': return snprintf(text, 64, two, (long long)t->second);
    case 't': return snprintf(text, 64, "\t");
    case 'T': case 'X': return snprintf(text, 64, "%02d:%02d:%02d", t->hour, t->minute, t->second);
    case 'u': return snprintf(text, 64, "%d", t->weekday == 0 ? 7 : t->weekday);
    case 'U': return snprintf(text, 64, two, (long long)((t->yearday + 7 - t->weekday) / 7));
    case 'V': return snprintf(text, 64, two, (long long)week);
    case 'w': return snprintf(text, 64, "%d", t->weekday);
    case 'W': return snprintf(text, 64, two, (long long)((t->yearday + 7 - (t->weekday + 6) % 7) / 7));
    case 'y': return snprintf(text, 64, two, (long long)(t->year % 100));
    case 'Y': return snprintf(text, 64, "%lld", (long long)t->year);
    case 'z': case 'Z': text[0] = '\0'; return 0; /* a time without a zone, as datetime.now() is */
    case '%': return snprintf(text, 64, "%%");
    default: return -1;
    }
#pragma GCC diagnostic pop
}

int jtime_format(struct jrun *r, const struct jval *format, struct jval *out)
{
    struct jbuild b;
    struct jstr *s, *result;
    if (format->type != J_STR)
        return jrun_fail(r, "strftime_now takes a str, not %s", jval_type_name(format->type));
    s = format->u.s;
    if (jstr_flat(r, s) < 0 || jrun_spend(r, s->n) < 0)
        return -1;
    if (r->now_s < -62135596800 || r->now_s > 253402300799)
        return jrun_fail(r, "the date is outside of the years 1 to 9999");
    struct jtime t = jtime_civil(r->now_s);
    r->used_now = true;
    jbuild_init(&b, r);
    for (size_t i = 0; i < s->n;) {
        char text[64], pad = 0;
        size_t from = i++;
        bool trusted = jstr_trusted_at(s, from);
        if (s->p[from] == '%' && i < s->n && (s->p[i] == '-' || s->p[i] == '_' || s->p[i] == '0'))
            pad = s->p[i++];
        if (s->p[from] != '%' || i >= s->n) {
            if (jbuild_sub(&b, s, from, from + 1) < 0)
                return -1;
            i = from + 1;
            continue;
        }
        int n = jtime_directive(&t, s->p[i], pad, r->now_s, text);
        if (n < 0)
            return jrun_unsupported(r, "strftime_now does not know '%%%c'", s->p[i] > 0x20 && s->p[i] < 0x7f ? s->p[i] : '?');
        if (jbuild_bytes(&b, text, (size_t)n, trusted) < 0)
            return -1;
        i++;
    }
    if (jbuild_finish(&b, &result) < 0)
        return -1;
    *out = jval_str(result);
    return 0;
}
