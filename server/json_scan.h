/* json_scan.h: a cheap look over JSON text before a tree is built from it: what would the tree cost? */
#ifndef NEXTD_JSON_SCAN_H
#define NEXTD_JSON_SCAN_H

#include <stddef.h>

#include "engine/err.h"

struct json_scan_limits {
    int max_depth;           /* of arrays and objects */
    size_t max_containers;   /* arrays and objects: about 200 bytes each in a tree */
    size_t max_values;       /* upper bound of all values: about 40 bytes each */
};

/* ERR_INVALID where the text is over a limit. Says nothing about well-formedness; text that is not JSON may pass. */
int json_scan(const char *p, size_t n, const struct json_scan_limits *limits, struct err *err);

#endif
