/* jstr.h: a template's strings: valid UTF-8 with the provenance of each byte, cheap to concatenate.
 *
 * A concatenation of long strings is a rope node; the bytes are put together once, when somebody looks (jstr_flat). Templates that grow a string in a
 * loop therefore cost linear time and memory. Indexes that templates see are code points, as in Python; here they are converted to bytes.
 *
 * jbuild collects a result piece by piece. A piece refers to bytes that live as long as the render; single bytes go to a scratch chunk. */
#ifndef NEXTD_CHAT_JSTR_H
#define NEXTD_CHAT_JSTR_H

#include "server/chat/jval.h"

enum jtrust { JTRUST_NO, JTRUST_YES, JTRUST_MIXED };

/* Bytes up to `end` (from the end of the mark before) share their trust. */
struct jmark {
    size_t end;
    bool trusted;
};

struct jstr {
    const char *p;      /* NULL while a rope */
    size_t n;           /* bytes */
    size_t n_chars;     /* SIZE_MAX while unknown */
    uint8_t trust;      /* enum jtrust */
    bool markup;        /* of type Markup: what |safe and |escape make */
    uint32_t rope_depth;
    size_t n_marks;     /* with JTRUST_MIXED and p: */
    const struct jmark *marks;
    struct jstr *left, *right; /* of a rope */
};

/* The bytes are not copied and must outlive the render. */
struct jstr *jstr_ref(struct jrun *r, const char *p, size_t n, bool trusted);
struct jstr *jstr_copy(struct jrun *r, const char *p, size_t n, bool trusted);
/* A constant, for compile time. */
void jstr_init(struct jstr *s, const char *p, size_t n, bool trusted);
int jstr_flat(struct jrun *r, struct jstr *s); /* afterwards s->p, s->runs are there */
int jstr_concat(struct jrun *r, struct jstr *a, struct jstr *b, struct jstr **out);
/* Bytes [from, to) of a flat string. */
struct jstr *jstr_sub(struct jrun *r, const struct jstr *s, size_t from, size_t to);
bool jstr_trusted(const struct jstr *s);                       /* every byte is */
bool jstr_trusted_at(const struct jstr *s, size_t byte);       /* of a flat string */
size_t jstr_n_chars(struct jstr *s);                           /* of a flat string */
size_t jstr_byte_of(struct jstr *s, size_t char_idx);          /* of a flat string; clamps at the end */
size_t jstr_char_of(struct jstr *s, size_t byte);              /* the inverse */
bool jstr_is(const struct jstr *s, const char *literal);       /* of a flat string */
bool jstr_same(const struct jstr *a, const struct jstr *b);    /* of flat strings */
int jstr_order(const struct jstr *a, const struct jstr *b);    /* of flat strings: by code points */
/* The first occurrence of needle in bytes [from, to), or SIZE_MAX. */
size_t jstr_find(const struct jstr *s, const char *needle, size_t n, size_t from, size_t to);
size_t jstr_rfind(const struct jstr *s, const char *needle, size_t n, size_t from, size_t to);

struct jpiece {
    const char *p;
    size_t n;
    bool trusted;
};

struct jbuild {
    struct jrun *run;
    struct jpiece *v;
    size_t n, cap;
    size_t bytes;
    char *chunk;
    size_t chunk_n, chunk_cap;
    bool markup;
};

void jbuild_init(struct jbuild *b, struct jrun *r);
int jbuild_ref(struct jbuild *b, const char *p, size_t n, bool trusted);   /* bytes that outlive the render */
int jbuild_bytes(struct jbuild *b, const char *p, size_t n, bool trusted); /* copied */
int jbuild_puts(struct jbuild *b, const char *s, bool trusted);            /* copied */
int jbuild_str(struct jbuild *b, struct jstr *s);
int jbuild_sub(struct jbuild *b, const struct jstr *s, size_t from, size_t to); /* of a flat string */
int jbuild_fill(struct jbuild *b, const char *p, size_t n, size_t times, bool trusted); /* a repeated pattern */
int jbuild_char(struct jbuild *b, uint32_t code_point, bool trusted);
int jbuild_finish(struct jbuild *b, struct jstr **out);

#endif
