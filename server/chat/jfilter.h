/* jfilter.h: what the filter table in jfilter.c needs from the filters on sequences in jfilter_seq.c. */
#ifndef NEXTD_CHAT_JFILTER_H
#define NEXTD_CHAT_JFILTER_H

#include "server/chat/jeval.h"

typedef int jfilter_fn(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out);

int jfilter_map(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out);
int jfilter_select(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out);
int jfilter_reject(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out);
int jfilter_selectattr(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out);
int jfilter_rejectattr(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out);
int jfilter_unique(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out);
int jfilter_groupby(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out);
int jfilter_sort(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out);
int jfilter_dictsort(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out);
int jfilter_min(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out);
int jfilter_max(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out);
int jfilter_sum(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out);
int jfilter_join(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out);
int jfilter_first(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out);
int jfilter_last(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out);
int jfilter_reverse(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out);
int jfilter_list(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out);
int jfilter_items(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out);
int jfilter_batch(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out);
int jfilter_slice(struct jrun *r, const struct jval *in, const struct jcall *call, struct jval *out);

#endif
