/* parse.cpp: from the text of a module to decoded instructions.
 *
 * A module is a row of directives; a kernel's body is a row of statements that end in semicolons, with labels and nested scopes (inline assembly has
 * scopes, and registers of its own in them). Each statement becomes an instruction whose operands are rows: names are looked up here and never again.
 * An opcode that no table knows ends the parse, and so does an operand of another width than its instruction has. */
#include "program.h"
#include <cctype>
#include <cstdlib>

namespace ptx {

std::vector<std::string> opcode_parts(const std::string &opcode)
{
    static const char *const advice[] = {"nc", "volatile", "relaxed", "weak", "acquire", "release", "acq_rel", "sc", "gpu", "cta", "sys", "ca", "cg",
                                         "cs", "lu", "cv", "wb", "wt", "L1::no_allocate", "L1::evict_normal", "L1::evict_unchanged",
                                         "L1::evict_first", "L1::evict_last", "L2::64B", "L2::128B", "L2::256B", "L2", "L1"};
    std::vector<std::string> parts;
    for (size_t at = 0; at <= opcode.size();) {
        size_t end = opcode.find('.', at);
        std::string part = opcode.substr(at, end == std::string::npos ? end : end - at);
        at = end == std::string::npos ? opcode.size() + 1 : end + 1;
        if (part == "shared::cta")
            part = "shared";
        bool is_advice = false;
        for (const char *a : advice)
            is_advice = is_advice || part == a;
        if (!is_advice || parts.empty())
            parts.push_back(part);
    }
    return parts;
}

int type_bytes(const std::string &type)
{
    if (type.size() < 2 || strchr("busf", type[0]) == nullptr)
        return 0;
    const std::string n = type.substr(1);
    return n == "8" ? 1 : n == "16" || type == "bf16" ? 2 : n == "32" || type == "f16x2" ? 4 : n == "64" ? 8 : 0;
}

namespace {

enum class symbol_kind { row32, row64, predicate, shared, dynamic_shared, local, parameter, variable };

struct symbol {
    symbol_kind what;
    uint64_t value; // row, predicate, offset or address
};

typedef std::unordered_map<std::string, symbol> scope;

struct group { // an operand, or several in braces
    std::vector<std::string> names;
    bool braced;
};

struct pending_branch {
    size_t at;
    std::string label;
};

bool is_name(char c) { return isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '$' || c == '%'; }

std::string trimmed(const std::string &s)
{
    size_t a = s.find_first_not_of(" \t\n\r"), b = s.find_last_not_of(" \t\n\r");
    return a == std::string::npos ? "" : s.substr(a, b - a + 1);
}

std::vector<std::string> words(const std::string &s)
{
    std::vector<std::string> out;
    std::string word;
    for (char c : s + " ") {
        if (!isspace(static_cast<unsigned char>(c))) {
            word += c;
        } else if (!word.empty()) {
            out.push_back(word);
            word.clear();
        }
    }
    return out;
}

/* Split at commas outside brackets. */
std::vector<std::string> split(const std::string &s)
{
    std::vector<std::string> out;
    std::string part;
    int depth = 0;
    for (char c : s) {
        depth += c == '[' || c == '{' || c == '(' ? 1 : c == ']' || c == '}' || c == ')' ? -1 : 0;
        if (c == ',' && depth == 0) {
            out.push_back(trimmed(part));
            part.clear();
        } else {
            part += c;
        }
    }
    if (!trimmed(part).empty())
        out.push_back(trimmed(part));
    return out;
}

std::string without_comments(const std::string &s)
{
    std::string out;
    for (size_t k = 0; k < s.size(); k++) {
        if (s.compare(k, 2, "//") == 0) {
            k = s.find('\n', k);
            if (k == std::string::npos)
                break;
        } else if (s.compare(k, 2, "/*") == 0) {
            k = s.find("*/", k);
            if (k == std::string::npos)
                break;
            k++;
            continue;
        }
        out += s[k];
    }
    return out;
}

class parser {
public:
    parser(const std::string &text, program *p) : s(without_comments(text)), out(p) { scopes.emplace_back(); }
    void module_level();

private:
    std::string s;
    size_t at = 0;
    program *out;
    kernel *k = nullptr;
    std::vector<scope> scopes; // the module's first
    std::unordered_map<std::string, uint32_t> labels;
    std::vector<pending_branch> branches;
    std::map<std::pair<uint64_t, bool>, uint32_t> constant_rows;
    std::map<std::pair<int, int>, uint32_t> special_rows;
    enum : uint32_t { NO_ROW = ~0u };
    uint32_t dynamic_rows[2] = {NO_ROW, NO_ROW}; // where dynamic shared memory begins, as 32 and 64 bits
    std::map<std::string, uint32_t> module_shared; // their bytes
    const std::string *statement_text = nullptr;

    [[noreturn]] void fail(const std::string &why) const;
    void skip_space();
    std::string until(char end);
    void skip_body();
    void entry(const std::string &header);
    void parameters(const std::string &list);
    void body();
    void statement(const std::string &text);
    void declare(const std::string &text);
    void declare_registers(const std::string &text);
    void declare_array(const std::string &text, bool is_extern);
    void variable(const std::string &text);
    void decode(instruction i, const std::string &opcode, const std::string &operands);
    bool decode_control(instruction *i, const std::string &opcode, const std::string &operands);
    bool decode_packing(const instruction &i, const std::string &opcode, const std::vector<group> &groups);
    void operand(instruction *i, char letter, const std::string &text, bool wide_immediate, int *n_addresses);
    void address(instruction *i, const std::string &text, int64_t *offset);
    void value(instruction *i, char letter, const std::string &text, bool wide_immediate);
    uint32_t predicate(const std::string &text);
    uint32_t constant(uint64_t bits, bool wide);
    uint32_t place_of(const symbol &found, bool wide);
    bool special_row_of(const std::string &name, uint32_t *row_out);
    uint32_t new_row(bool wide);
    const symbol *find(const std::string &name);
    void add(const instruction &i) { k->code.push_back(i); }
    bool number(const std::string &text, uint64_t *out) const;
};

void parser::fail(const std::string &why) const
{
    throw error(out->path + (k != nullptr ? ", " + k->name : "") + ": " + why + (statement_text != nullptr ? ": " + *statement_text : ""));
}

void parser::skip_space()
{
    while (at < s.size() && isspace(static_cast<unsigned char>(s[at])))
        at++;
}

std::string parser::until(char end)
{
    size_t e = s.find(end, at);
    if (e == std::string::npos)
        fail(std::string("ends without a ") + end);
    std::string text = s.substr(at, e - at);
    at = e + 1;
    return trimmed(text);
}

void parser::skip_body()
{
    int depth = 1;
    for (at++; depth > 0 && at < s.size(); at++)
        depth += s[at] == '{' ? 1 : s[at] == '}' ? -1 : 0;
}

/* ---- names ---- */

const symbol *parser::find(const std::string &name)
{
    for (size_t n = scopes.size(); n-- > 0;) {
        auto found = scopes[n].find(name);
        if (found != scopes[n].end())
            return &found->second;
    }
    auto shared = module_shared.find(name);
    if (shared == module_shared.end())
        return nullptr;
    // A shared array of the module gets its place in each kernel that names it.
    k->shared_bytes = (k->shared_bytes + 15) & ~15u;
    symbol place = {symbol_kind::shared, k->shared_bytes};
    k->shared_bytes += shared->second;
    return &(scopes[1][name] = place);
}

uint32_t parser::new_row(bool wide)
{
    uint32_t r = k->n_rows;
    k->n_rows += wide ? 2 : 1;
    return r;
}

uint32_t parser::constant(uint64_t bits, bool wide)
{
    if (!wide)
        bits &= 0xffffffffu;
    auto key = std::make_pair(bits, wide);
    auto found = constant_rows.find(key);
    if (found != constant_rows.end())
        return found->second;
    uint32_t r = new_row(wide);
    k->constants.push_back({r, bits, wide});
    return constant_rows[key] = r;
}

/* The row with an offset or address that a name stands for. */
uint32_t parser::place_of(const symbol &found, bool wide)
{
    if (found.what != symbol_kind::dynamic_shared)
        return constant(found.value, wide);
    uint32_t *r = &dynamic_rows[wide ? 1 : 0];
    return *r != NO_ROW ? *r : *r = new_row(wide);
}

bool parser::special_row_of(const std::string &name, uint32_t *row_out)
{
    static const char *const vectors[] = {"%tid.", "%ntid.", "%ctaid.", "%nctaid."};
    int what = -1, axis = 0;
    for (int v = 0; v < 4; v++)
        if (name.size() == strlen(vectors[v]) + 1 && name.compare(0, strlen(vectors[v]), vectors[v]) == 0) {
            what = v;
            axis = name.back() - 'x';
        }
    if (name == "%laneid" || name == "%warpid")
        what = static_cast<int>(name == "%laneid" ? special::laneid : special::warpid);
    if (what < 0 || axis < 0 || axis > 2)
        return false;
    auto key = std::make_pair(what, axis);
    if (special_rows.count(key) == 0) {
        special_rows[key] = new_row(false);
        k->specials.push_back({special_rows[key], static_cast<special>(what), static_cast<uint8_t>(axis)});
    }
    *row_out = special_rows[key];
    return true;
}

bool parser::number(const std::string &text, uint64_t *value_out) const
{
    char *end = nullptr;
    if (text == "WARP_SZ") {
        *value_out = WARP;
        return true;
    }
    if (text.size() > 2 && text[0] == '0' && strchr("fFdD", text[1]) != nullptr)
        *value_out = strtoull(text.c_str() + 2, &end, 16);
    else if (text[0] == '-')
        *value_out = static_cast<uint64_t>(strtoll(text.c_str(), &end, 0));
    else
        *value_out = strtoull(text.c_str(), &end, 0);
    return end != text.c_str() && (*end == 0 || (*end == 'U' && end[1] == 0));
}

uint32_t parser::predicate(const std::string &text)
{
    if (text[0] == '!')
        return predicate(text.substr(1)) ^ NOT;
    uint64_t v;
    const symbol *found = find(text);
    if (found != nullptr && found->what == symbol_kind::predicate)
        return static_cast<uint32_t>(found->value);
    if (found == nullptr && number(text, &v))
        return v != 0;
    fail("expected a predicate, found " + text);
}

/* ---- operands ---- */

void parser::value(instruction *i, char letter, const std::string &text, bool wide_immediate)
{
    uint32_t n = i->n_operands++;
    bool wide = letter == 'L' || (letter == 'R' && wide_immediate);
    uint64_t bits = 0;
    const symbol *found = find(text);
    if (found != nullptr && (found->what == symbol_kind::row32 || found->what == symbol_kind::row64)) {
        bool is_wide = found->what == symbol_kind::row64;
        if (letter != 'R' && is_wide != wide)
            fail("register of another width: " + text);
        wide = is_wide;
        i->a[n] = static_cast<uint32_t>(found->value);
    } else if (found != nullptr && found->what != symbol_kind::predicate) {
        i->a[n] = place_of(*found, wide);
    } else if (text == "_") {
        i->a[n] = new_row(wide);
    } else if (special_row_of(text, &i->a[n])) {
        if (letter == 'L')
            fail("special register as 64 bits: " + text);
        wide = false;
    } else if (found == nullptr && number(text, &bits)) {
        i->a[n] = constant(bits, wide);
    } else {
        fail("unknown operand " + text);
    }
    i->wide |= static_cast<uint32_t>(wide) << n;
}

void parser::address(instruction *i, const std::string &text, int64_t *offset)
{
    if (text.size() < 3 || text.front() != '[' || text.back() != ']')
        fail("expected an address, found " + text);
    std::string base = trimmed(text.substr(1, text.size() - 2));
    uint64_t v;
    size_t plus = base.find('+');
    if (plus != std::string::npos) {
        if (!number(trimmed(base.substr(plus + 1)), &v))
            fail("unknown offset in " + text);
        *offset = static_cast<int64_t>(v);
        base = trimmed(base.substr(0, plus));
    }
    const symbol *found = find(base);
    if (found == nullptr)
        fail("unknown base of " + text);
    uint32_t n = i->n_operands++;
    bool wide = found->what == symbol_kind::row64 || found->what == symbol_kind::variable;
    if (found->what == symbol_kind::row32 || found->what == symbol_kind::row64)
        i->a[n] = static_cast<uint32_t>(found->value);
    else
        i->a[n] = place_of(*found, wide);
    i->wide |= static_cast<uint32_t>(wide) << n;
}

void parser::operand(instruction *i, char letter, const std::string &text, bool wide_immediate, int *n_addresses)
{
    if (letter == 'P') {
        i->a[i->n_operands++] = predicate(text);
    } else if (letter == 'A') {
        address(i, text, *n_addresses == 0 ? &i->offset : &i->offset2);
        (*n_addresses)++;
    } else if (letter == 'D') {
        size_t bar = text.find('|');
        value(i, 'S', trimmed(text.substr(0, bar)), false);
        if (bar != std::string::npos)
            i->second = predicate(trimmed(text.substr(bar + 1)));
    } else {
        value(i, letter, text, wide_immediate);
    }
}

/* ---- instructions ---- */

template <class HALF, class WHOLE, bool PACK> void repack(warp &w, const instruction &i, uint32_t mask)
{
    // Packing: a[0] whole, then halves, low first. Unpacking: halves, then whole.
    enum { BITS = sizeof(WHOLE) * 4 };
    WHOLE *whole = reinterpret_cast<WHOLE *>(w.row32(i.a[PACK ? 0 : 2]));
    uint32_t *low = w.row32(i.a[PACK ? 1 : 0]), *high = w.row32(i.a[PACK ? 2 : 1]);
    for (int l = 0; l < WARP; l++) {
        if (!is_active(mask, l))
            continue;
        if (PACK) {
            whole[l] = static_cast<WHOLE>(static_cast<HALF>(high[l])) << BITS | static_cast<HALF>(low[l]);
        } else {
            WHOLE x = whole[l];
            low[l] = static_cast<HALF>(x);
            high[l] = static_cast<HALF>(x >> BITS);
        }
    }
}

/* mov.b32 {lo, hi}, d and back, and the same with 64 bits. */
bool parser::decode_packing(const instruction &guarded, const std::string &opcode, const std::vector<group> &groups)
{
    instruction i = guarded;
    if ((opcode != "mov.b32" && opcode != "mov.b64") || groups.size() != 2 || groups[0].braced == groups[1].braced)
        return false;
    const bool is64 = opcode == "mov.b64", packs = groups[1].braced;
    if (groups[packs ? 1 : 0].names.size() != 2)
        fail("packs something other than two halves");
    for (const group &g : groups)
        for (const std::string &name : g.names)
            value(&i, is64 && !g.braced ? 'L' : 'S', name, false);
    if (is64)
        i.run = packs ? repack<uint32_t, uint64_t, true> : repack<uint32_t, uint64_t, false>;
    else
        i.run = packs ? repack<uint16_t, uint32_t, true> : repack<uint16_t, uint32_t, false>;
    add(i);
    return true;
}

bool parser::decode_control(instruction *i, const std::string &opcode, const std::string &operands)
{
    if (opcode == "bra" || opcode == "bra.uni") {
        i->kind = kind::branch;
        branches.push_back({k->code.size(), operands});
    } else if (opcode == "ret" || opcode == "exit") {
        i->kind = kind::end;
    } else if (opcode == "bar.sync" || opcode == "barrier.sync" || opcode == "barrier.sync.aligned" || opcode == "barrier.cta.sync") {
        if (operands != "0")
            fail("only barrier 0 for the whole block is known");
        i->kind = kind::barrier;
    } else {
        return false;
    }
    add(*i);
    return true;
}

void parser::decode(instruction i, const std::string &opcode, const std::string &operands)
{
    if (decode_control(&i, opcode, operands))
        return;
    std::vector<group> groups;
    std::vector<std::string> flat;
    for (const std::string &part : split(operands)) {
        bool braced = part[0] == '{';
        groups.push_back({braced ? split(part.substr(1, part.size() - 2)) : std::vector<std::string>{part}, braced});
        flat.insert(flat.end(), groups.back().names.begin(), groups.back().names.end());
    }
    if (decode_packing(i, opcode, groups))
        return;
    operation o;
    if (!find_arithmetic(opcode, &o) && !find_memory(opcode, &o) && !find_conversion(opcode, &o) && !find_collective(opcode, &o))
        fail("unknown opcode " + opcode);
    i.run = o.run;
    i.kind = o.kind;
    i.where = o.where;
    i.mode = o.mode;
    i.n_elements = static_cast<uint8_t>(o.n_elements);
    i.n_bytes = static_cast<uint8_t>(o.n_bytes);
    size_t optional = o.operands.find('?'), most = o.operands.size();
    if (optional != std::string::npos) {
        o.operands.erase(optional, 1);
        most--;
    }
    if (flat.size() > most || flat.size() < (optional != std::string::npos ? optional : most) || most > MAX_OPERANDS)
        fail(std::to_string(flat.size()) + " operands where " + std::to_string(most) + " are known");
    int n_addresses = 0;
    for (size_t n = 0; n < flat.size(); n++)
        operand(&i, o.operands[n], flat[n], o.n_bytes / o.n_elements == 8, &n_addresses);
    add(i);
}

void parser::statement(const std::string &text)
{
    out->texts.push_back(std::make_unique<std::string>(text));
    statement_text = out->texts.back().get();
    if (text[0] == '.') {
        declare(text);
        statement_text = nullptr;
        return;
    }
    instruction i;
    i.text = statement_text->c_str();
    std::string rest = text;
    if (rest[0] == '@') {
        size_t end = rest.find_first_of(" \t");
        i.guarded = true;
        i.guard = predicate(rest.substr(1, end - 1));
        rest = trimmed(rest.substr(end));
    }
    size_t end = rest.find_first_of(" \t\n{");
    std::string opcode = rest.substr(0, end), operands = end == std::string::npos ? "" : trimmed(rest.substr(end));
    i.issue = issue_class_of(opcode);
    decode(i, opcode, operands);
    statement_text = nullptr;
}

/* ---- declarations ---- */

void parser::declare_registers(const std::string &text)
{
    // .reg .b32 %r<19>, other;
    std::vector<std::string> w = words(text);
    const std::string type = w.size() > 2 ? w[1].substr(1) : "";
    const bool is_predicate = type == "pred", is_wide = type_bytes(type) == 8;
    if (!is_predicate && type_bytes(type) == 0)
        fail("registers of an unknown type");
    for (const std::string &name : split(text.substr(text.find(w[1]) + w[1].size()))) {
        size_t angle = name.find('<');
        long n = angle == std::string::npos ? 1 : strtol(name.c_str() + angle + 1, nullptr, 10);
        for (long j = 0; j < n; j++) {
            std::string one = angle == std::string::npos ? name : name.substr(0, angle) + std::to_string(j);
            if (is_predicate)
                scopes.back()[one] = {symbol_kind::predicate, k->n_predicates++};
            else
                scopes.back()[one] = {is_wide ? symbol_kind::row64 : symbol_kind::row32, new_row(is_wide)};
        }
    }
}

/* .shared .align 16 .b8 name[768], and .local likewise. */
void parser::declare_array(const std::string &text, bool is_extern)
{
    size_t bracket = text.find('[');
    std::vector<std::string> w = words(text.substr(0, bracket));
    uint32_t align = 16, element = 0;
    for (size_t n = 0; n + 1 < w.size(); n++) {
        if (w[n] == ".align")
            align = static_cast<uint32_t>(strtoul(w[n + 1].c_str(), nullptr, 10));
        if (w[n][0] == '.' && type_bytes(w[n].substr(1)) != 0)
            element = static_cast<uint32_t>(type_bytes(w[n].substr(1)));
    }
    uint32_t n_bytes = element * (bracket == std::string::npos ? 1 : static_cast<uint32_t>(strtoul(text.c_str() + bracket + 1, nullptr, 10)));
    const std::string name = w.back();
    if (is_extern)
        scopes[0][name] = {symbol_kind::dynamic_shared, 0};
    else if (k == nullptr)
        module_shared[name] = n_bytes;
    else {
        const bool is_local = w[0] == ".local";
        uint32_t *total = is_local ? &k->local_bytes : &k->shared_bytes;
        *total = (*total + align - 1) / align * align;
        scopes.back()[name] = {is_local ? symbol_kind::local : symbol_kind::shared, *total};
        *total += n_bytes;
    }
}

void parser::declare(const std::string &text)
{
    if (text.compare(0, 4, ".reg") == 0)
        declare_registers(text);
    else if (text.compare(0, 7, ".shared") == 0 || text.compare(0, 6, ".local") == 0)
        declare_array(text, false);
    else if (text.compare(0, 7, ".pragma") != 0)
        fail("unknown directive");
}

/* [.visible] .global|.const .align 8 .b8 name[32] = {1, 2, ...} */
void parser::variable(const std::string &text)
{
    size_t equals = text.find('='), bracket = text.find('[');
    std::vector<std::string> w = words(text.substr(0, bracket < equals ? bracket : equals));
    int element = 0;
    for (const std::string &word : w)
        if (word[0] == '.' && type_bytes(word.substr(1)) != 0)
            element = type_bytes(word.substr(1));
    if (element == 0)
        fail("variable of an unknown type: " + text.substr(0, 80));
    size_t n = bracket < equals ? strtoul(text.c_str() + bracket + 1, nullptr, 10) : 1;
    auto bytes = std::make_unique<uint64_t[]>(n * static_cast<size_t>(element) / 8 + 4);
    uintptr_t address = (reinterpret_cast<uintptr_t>(bytes.get()) + 15) & ~static_cast<uintptr_t>(15);
    uint8_t *at_byte = reinterpret_cast<uint8_t *>(address);
    if (equals != std::string::npos) {
        std::string list = trimmed(text.substr(equals + 1));
        if (list[0] == '{')
            list = list.substr(1, list.rfind('}') - 1);
        uint64_t v;
        for (const std::string &one : split(list)) {
            if (!number(one, &v))
                fail("unknown initialiser " + one);
            memcpy(at_byte, &v, static_cast<size_t>(element));
            at_byte += element;
        }
    }
    scopes[0][w.back()] = {symbol_kind::variable, address};
    out->variables.push_back(std::move(bytes));
    out->variable_ranges.push_back({address, address + n * static_cast<size_t>(element)});
}

/* ---- kernels ---- */

void parser::parameters(const std::string &list)
{
    for (const std::string &one : split(list)) { // .param .align 8 .b8 name[24]
        std::vector<std::string> w = words(one);
        uint32_t align = 0, element = 0, n = 1;
        for (size_t j = 0; j + 1 < w.size(); j++) {
            if (w[j] == ".ptr") // what follows is about the memory that it points to
                break;
            if (w[j] == ".align")
                align = static_cast<uint32_t>(strtoul(w[j + 1].c_str(), nullptr, 10));
            else if (w[j][0] == '.' && type_bytes(w[j].substr(1)) != 0)
                element = static_cast<uint32_t>(type_bytes(w[j].substr(1)));
        }
        std::string name = w.back();
        size_t bracket = name.find('[');
        if (bracket != std::string::npos) {
            n = static_cast<uint32_t>(strtoul(name.c_str() + bracket + 1, nullptr, 10));
            name = name.substr(0, bracket);
        }
        if (element == 0)
            fail("parameter of an unknown type: " + one);
        align = align != 0 ? align : element;
        k->parameter_bytes = (k->parameter_bytes + align - 1) / align * align;
        scopes[1][name] = {symbol_kind::parameter, k->parameter_bytes};
        k->parameters.push_back({k->parameter_bytes, element * n});
        k->parameter_bytes += element * n;
    }
}

void parser::body()
{
    size_t depth = scopes.size();
    at++;
    while (scopes.size() >= depth) {
        skip_space();
        if (at >= s.size())
            fail("the body does not end");
        if (s[at] == '{') {
            scopes.emplace_back();
            at++;
            continue;
        }
        if (s[at] == '}') {
            at++;
            if (scopes.size() == depth)
                break;
            scopes.pop_back();
            continue;
        }
        size_t e = at;
        while (e < s.size() && is_name(s[e]))
            e++;
        if (e > at && s[e] == ':' && s[e + 1] != ':') {
            labels[s.substr(at, e - at)] = static_cast<uint32_t>(k->code.size());
            at = e + 1;
            continue;
        }
        std::string text = until(';');
        if (!text.empty())
            statement(text);
    }
}

void parser::entry(const std::string &header)
{
    size_t open = header.find('('), name_at = header.find(".entry") + 6;
    std::string name = trimmed(header.substr(name_at, open == std::string::npos ? open : open - name_at));
    name = words(name)[0];
    k = &out->kernels[name];
    k->name = name;
    scopes.resize(1);
    scopes.emplace_back();
    labels.clear();
    branches.clear();
    constant_rows.clear();
    special_rows.clear();
    dynamic_rows[0] = dynamic_rows[1] = NO_ROW;
    if (open != std::string::npos)
        parameters(header.substr(open + 1, header.find(')', open) - open - 1));
    body();
    for (const pending_branch &b : branches) {
        auto found = labels.find(b.label);
        if (found == labels.end())
            fail("no label " + b.label);
        k->code[b.at].target = found->second;
    }
    instruction last; // falling off the end
    last.kind = kind::end;
    last.issue = ISSUE_BRANCH;
    last.text = "}";
    add(last);
    // Dynamic shared memory lies behind the rest, all of it under each of its names.
    k->shared_bytes = (k->shared_bytes + 15) & ~15u;
    for (uint32_t n : {0u, 1u})
        if (dynamic_rows[n] != NO_ROW)
            k->constants.push_back({dynamic_rows[n], k->shared_bytes, n == 1});
    k = nullptr;
}

void parser::module_level()
{
    for (skip_space(); at < s.size(); skip_space()) {
        if (s.compare(at, 8, ".version") == 0 || s.compare(at, 7, ".target") == 0 || s.compare(at, 13, ".address_size") == 0) {
            at = s.find('\n', at);
            continue;
        }
        size_t end = s.find_first_of(";{", at);
        if (end == std::string::npos)
            fail("unknown text at the end");
        std::string text = trimmed(s.substr(at, end - at));
        if (text.find('=') != std::string::npos) { // an initialiser's brace
            end = s.find(';', at);
            text = trimmed(s.substr(at, end - at));
        }
        at = end;
        bool is_array = text.find(".shared") != std::string::npos;
        if (s[at] == '{' && text.find(".entry") != std::string::npos)
            entry(text);
        else if (s[at] == '{')
            skip_body();
        else if (is_array)
            declare_array(text, text.find(".extern") != std::string::npos);
        else if (text.find(".global") != std::string::npos || text.find(".const") != std::string::npos)
            variable(text);
        if (at < s.size() && s[at] == ';')
            at++;
    }
}

} // namespace

void parse(const std::string &text, program *program_out) { parser(text, program_out).module_level(); }

} // namespace ptx
