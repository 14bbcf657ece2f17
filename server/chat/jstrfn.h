/* jstrfn.h: what string methods and filters do to flat strings. Every result keeps the provenance of the bytes it is made of: what is cut keeps its
 * own, what is mapped (case) takes that of the character it comes from, what is put in takes that of the text put in. */
#ifndef NEXTD_CHAT_JSTRFN_H
#define NEXTD_CHAT_JSTRFN_H

#include "server/chat/jstr.h"

enum jcase { JCASE_UPPER, JCASE_LOWER, JCASE_TITLE, JCASE_CAPITALIZE, JCASE_SWAP, JCASE_FOLD };
enum jpad { JPAD_LEFT, JPAD_RIGHT, JPAD_BOTH };

int jstrfn_strip(struct jrun *r, struct jstr *s, struct jstr *chars, bool left, bool right, struct jval *out); /* chars NULL: white space */
int jstrfn_split(struct jrun *r, struct jstr *s, struct jstr *sep, int64_t max, bool from_right, struct jval *out); /* sep NULL: white space */
int jstrfn_splitlines(struct jrun *r, struct jstr *s, bool keep_ends, struct jval *out);
int jstrfn_replace(struct jrun *r, struct jstr *s, struct jstr *old, struct jstr *new, int64_t count, struct jval *out); /* count < 0: all */
int jstrfn_case(struct jrun *r, struct jstr *s, enum jcase how, struct jval *out);
int jstrfn_title_words(struct jrun *r, struct jstr *s, struct jval *out); /* jinja2's own title filter */
int jstrfn_pad(struct jrun *r, struct jstr *s, struct jstr *fill, int64_t width, enum jpad where, struct jval *out);
int jstrfn_zfill(struct jrun *r, struct jstr *s, int64_t width, struct jval *out);
/* The end of the line that begins at `from`: where its text ends and where the next begins. */
size_t jstrfn_line_end(const struct jstr *s, size_t from, size_t *next);

#endif
