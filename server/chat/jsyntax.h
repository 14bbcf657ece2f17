/* jsyntax.h: a chat template's tokens and tree. The lexer makes tokens from source text, the parser makes the tree, the evaluator walks it. All three
 * live in the compiled template's arena and never change afterwards. */
#ifndef NEXTD_CHAT_JSYNTAX_H
#define NEXTD_CHAT_JSYNTAX_H

#include "server/chat/jstr.h"

enum jtoken_type {
    JT_EOF, JT_DATA, JT_VARIABLE_BEGIN, JT_VARIABLE_END, JT_BLOCK_BEGIN, JT_BLOCK_END, JT_NAME, JT_STRING, JT_INT, JT_FLOAT,
    JT_ADD, JT_SUB, JT_MUL, JT_DIV, JT_FLOORDIV, JT_MOD, JT_POW, JT_TILDE, JT_LBRACKET, JT_RBRACKET, JT_LPAREN, JT_RPAREN, JT_LBRACE, JT_RBRACE,
    JT_EQ, JT_NE, JT_LT, JT_LTEQ, JT_GT, JT_GTEQ, JT_ASSIGN, JT_DOT, JT_COLON, JT_PIPE, JT_COMMA, JT_SEMICOLON
};

struct jtoken {
    uint8_t type;
    int line;
    const char *p; /* data, name, unescaped string */
    size_t n;
    int64_t i;
    double f;
};

struct jtokens {
    struct jtoken *v;
    size_t n, cap;
};

/* Splits source (valid UTF-8) into tokens that end with JT_EOF. ERR_FORMAT or ERR_UNSUPPORTED with the line. */
int jlex_run(struct arena *arena, const char *source, size_t n, struct jtokens *out, struct err *err);
const char *jlex_describe(const struct jtoken *t, char *scratch, size_t n);

enum jkind {
    /* expressions: operands a, b, c; kids are a list; str is a name or constant */
    JX_CONST,    /* value */
    JX_NAME,     /* name */
    JX_LIST, JX_TUPLE,                   /* kids */
    JX_DICT,     /* kids: key, value, key, value ... */
    JX_ATTR,     /* a.str */
    JX_ITEM,     /* a[b] */
    JX_SLICE,    /* a[kids[0]:kids[1]:kids[2]], NULL where absent */
    JX_CALL,     /* a(args) */
    JX_FILTER,   /* a|op(args); a is NULL for the text of a filter block */
    JX_TEST,     /* a is op(args) */
    JX_COND,     /* a if b else c; c may be NULL */
    JX_AND, JX_OR,                       /* a, b */
    JX_NOT, JX_NEG, JX_POS,              /* a */
    JX_BINARY,   /* a op b: JT_ADD ... JT_POW */
    JX_CONCAT,   /* kids */
    JX_COMPARE,  /* a, then kids with ops in args order: see jcompare */
    /* statements: body and orelse are statement lists */
    JS_TEXT,     /* str */
    JS_PRINT,    /* a */
    JS_IF,       /* a, body, orelse (an elif is an if in orelse) */
    JS_FOR,      /* target a, iterable b, filter c or NULL, body, orelse; flag = recursive */
    JS_SET,      /* target a = b */
    JS_SET_BLOCK, /* target a, filter chain b or NULL, body */
    JS_MACRO,    /* macro; name is where it is stored */
    JS_CALL,     /* call block: a is the JX_CALL, macro is the caller */
    JS_FILTER,   /* filter block: filter chain a, body */
    JS_WITH,     /* kids: target, value ...; body */
    JS_SCOPE,    /* body in a scope of its own (the generation tag) */
    JS_BREAK, JS_CONTINUE,
    /* assignment targets: JX_NAME, JX_TUPLE of targets, or */
    JX_NSREF     /* name.str */
};

enum jcompare_op { JC_EQ, JC_NE, JC_LT, JC_LTEQ, JC_GT, JC_GTEQ, JC_IN, JC_NOTIN };

struct jnode;

struct jnodes {
    struct jnode **v;
    size_t n, cap;
};

struct jargs {
    struct jnodes positional;
    struct jnodes keyword_values;
    const struct jstr **keyword_names; /* keyword_values.n of them */
    struct jnode *star, *star_star;    /* NULL where absent */
};

struct jmacro_def {
    const struct jstr *name; /* NULL for a call block's body */
    uint32_t *arg_ids;       /* names, n_args of them */
    const struct jstr **arg_names;
    struct jnode **defaults; /* NULL where there is none */
    size_t n_args;
    bool uses_caller, uses_kwargs, uses_varargs; /* named in the body and not an argument */
    bool caller_is_arg;
    struct jnodes body;
};

struct jnode {
    uint8_t kind;
    bool flag;
    uint16_t op;   /* JX_BINARY: token type; JX_FILTER, JX_TEST: index in its table, JOP_UNKNOWN if the name is not known */
    uint32_t name; /* interned */
    int line;
    const struct jstr *str;
    struct jnode *a, *b, *c;
    struct jnodes kids, body, orelse;
    struct jval value;
    struct jargs *args;
    uint8_t *compare_ops; /* JX_COMPARE: kids.n of them */
    struct jmacro_def *macro;
};

#define JOP_UNKNOWN UINT16_MAX

/* The compiled template. */
struct chat_template {
    struct arena arena;
    struct jnodes body;
    struct jstr **names; /* interned names, all of them with their characters counted */
    size_t n_names, names_cap;
    /* Ids of names with a meaning of their own. */
    uint32_t id_loop, id_caller, id_kwargs, id_varargs;
};

/* Parses tokens into t->body. ERR_FORMAT or ERR_UNSUPPORTED with the line. */
int jparse_run(struct chat_template *t, const struct jtokens *tokens, struct err *err);

/* What the evaluator knows, asked at compile time to refuse the rest: JOP_UNKNOWN where the name means nothing; *refused where jinja2 knows it and we
 * do not. */
uint16_t jfilter_lookup(const char *p, size_t n, bool *refused);
uint16_t jtest_lookup(const char *p, size_t n);

#endif
