/* load.h: a file's weights into a backend, and the digest of the very bytes that went there. */
#ifndef NEXTD_LOAD_H
#define NEXTD_LOAD_H

#include "engine/err.h"
#include "engine/model/forward.h"
#include "engine/model/gguf.h"
#include "engine/model/model.h"
#include "engine/model/sha256.h"
#include "engine/model/weights.h"

/* Fills t->layers, embed, output and out_norm; t->hp, ops and be must be set. sha256_out: of all bytes of all parts. Progress counts the bytes of the
 * file. ERR_IO, ERR_NOMEM, ERR_UNSUPPORTED; ERR_STOPPING where someone asked for it. What was made is freed by the backend and by free(t->layers). */
int load_weights(const struct gguf *file, const struct weights *weights, struct transformer *t, const struct model_options *opt,
                 char sha256_out[SHA256_HEX], struct err *err);

#endif
