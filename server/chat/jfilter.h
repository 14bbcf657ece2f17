/* jfilter.h: what the filter table in jfilter.c needs from the filters on sequences in jfilter_seq.c. */
#ifndef NEXTD_CHAT_JFILTER_H
#define NEXTD_CHAT_JFILTER_H

#include "server/chat/jeval.h"

typedef int jfilter_fn(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out);

jfilter_fn jfilter_map, jfilter_select, jfilter_reject, jfilter_selectattr, jfilter_rejectattr, jfilter_unique, jfilter_groupby, jfilter_sort, jfilter_dictsort,
    jfilter_min, jfilter_max, jfilter_sum, jfilter_join, jfilter_first, jfilter_last, jfilter_reverse, jfilter_list, jfilter_items, jfilter_batch, jfilter_slice;

#endif
