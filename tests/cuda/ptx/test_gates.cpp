// test_gates.cpp: what must hold of the PTX of every kernel, for every architecture that nvcc knows.
//
// PTX_FILES names the files, separated by spaces. The interpreter must know each opcode. Beside that the opcodes are judged here by themselves, from
// the text: a float operation says how it is rounded, or ptxas might contract it; nothing is approximate or flushes denormals; no float is summed
// atomically. A rule that could not fail would prove nothing, so each is shown a line that breaks it.
#include <cstdlib>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "tests/cuda/ptx/ptx.h"

// After the others: it has no C++ guard of its own, and a macro named fail.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
extern "C" {
#include <cmocka.h>
}

static std::vector<std::string> files()
{
    std::vector<std::string> names;
    std::stringstream list(getenv("PTX_FILES") != nullptr ? getenv("PTX_FILES") : "");
    for (std::string name; list >> name;)
        names.push_back(name);
    return names;
}

static std::string text_of(const std::string &name)
{
    std::ifstream file(name);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
}

/* The opcodes of a text: what begins a statement, after a guard if it has one. */
static std::set<std::string> opcodes(const std::string &text)
{
    static const std::regex statement("(?:^|[;{}\\n])\\s*(?:@!?%\\w+\\s+)?([a-z][a-z0-9_]*(?:\\.[A-Za-z0-9_:]+)*)(?=[\\s;])");
    std::set<std::string> found;
    for (std::sregex_iterator i(text.begin(), text.end(), statement), end; i != end; ++i)
        found.insert((*i)[1]);
    return found;
}

/* Why an opcode may not be in a kernel; NULL: it may. */
static const char *objection(const std::string &opcode)
{
    static const std::regex unrounded("(add|sub|mul|mad|fma|div|rcp|sqrt)\\.(?!rn\\.)(\\w+\\.)*b?f(16|32|64)(x2)?"),
        contracted("mad\\..*f(32|64)"), approximate(".*\\.(approx|full|ftz)\\b.*"), transcendental("(sin|cos|ex2|lg2|tanh|rsqrt)\\..*"),
        atomic_float("(atom|red)\\..*\\.b?f(16|32|64)(x2)?"), float_conversion("cvt\\..*\\bb?f(16|32|64)(x2)?\\b.*"),
        exact_conversion("cvt\\.(rn|rni|rzi|rmi|rpi)\\..*|cvt\\.(f32\\.b?f16|f64\\.f32)"), call("call.*");
    if (std::regex_match(opcode, approximate))
        return "is approximate or flushes denormals";
    if (std::regex_match(opcode, transcendental))
        return "is a transcendental function of the processor";
    if (std::regex_match(opcode, atomic_float))
        return "adds floats in no order";
    if (std::regex_match(opcode, contracted) || std::regex_match(opcode, unrounded))
        return "does not round explicitly";
    if (std::regex_match(opcode, float_conversion) && !std::regex_match(opcode, exact_conversion))
        return "converts without saying how it rounds";
    return std::regex_match(opcode, call) ? "calls a function" : nullptr;
}

static void there_are_kernels(void **)
{
    assert_true(files().size() >= 4);
    for (const std::string &name : files())
        assert_true(opcodes(text_of(name)).size() > 10);
}

static void the_interpreter_knows_every_opcode(void **)
{
    for (const std::string &name : files()) {
        try {
            ptx::module m(name);
            assert_false(m.kernels().empty());
        } catch (const ptx::error &e) {
            fail_msg("%s", e.what());
        }
    }
}

static void every_float_operation_rounds_explicitly(void **)
{
    for (const std::string &name : files())
        for (const std::string &opcode : opcodes(text_of(name)))
            if (objection(opcode) != nullptr)
                fail_msg("%s: %s %s", name.c_str(), opcode.c_str(), objection(opcode));
}

static void the_rules_find_what_breaks_them(void **)
{
    const char *const wrong[] = {"add.f32", "sub.ftz.f32", "mul.rz.f32", "fma.rm.f64", "mad.f32", "mad.rn.f32", "div.full.f32", "div.approx.f32",
                                 "sqrt.f64", "rcp.approx.ftz.f32", "ex2.approx.f32", "lg2.approx.f32", "sin.approx.f32", "rsqrt.approx.f32",
                                 "tanh.approx.f32", "fma.rn.ftz.f32", "atom.global.add.f32", "red.shared.add.f64", "cvt.f32.f64", "cvt.f16.f32",
                                 "cvt.f32.s32", "cvt.s32.f32", "cvt.rzi.ftz.s32.f32", "add.f16x2", "call.uni"};
    const char *const right[] = {"add.rn.f32", "fma.rn.f64", "div.rn.f32", "sqrt.rn.f32", "rcp.rn.f64", "add.s32", "mad.lo.s32", "mul.wide.u32",
                                 "neg.f32", "max.f32", "cvt.f32.f16", "cvt.f64.f32", "cvt.rn.f32.s32", "cvt.rn.f16.f32", "cvt.rzi.s32.f32",
                                 "cvt.rni.f32.f32", "cvt.u32.u16", "atom.global.add.u32", "setp.lt.f32", "ld.global.f32"};
    for (const char *opcode : wrong)
        if (objection(opcode) == nullptr)
            fail_msg("nothing against %s", opcode);
    for (const char *opcode : right)
        if (objection(opcode) != nullptr)
            fail_msg("%s: %s", opcode, objection(opcode));
    // They are found wherever a statement begins.
    const std::set<std::string> found = opcodes("\tadd.f32 %f1, %f2, %f3;\n\t@%p1 sqrt.f32 %f1, %f2; @!%p2 bra $L1;\n"
                                                "{ // begin\n\tex2.approx.f32 %f1, %f2;}\nret;");
    assert_true(found == (std::set<std::string>{"add.f32", "sqrt.f32", "bra", "ex2.approx.f32", "ret"}));
}

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(there_are_kernels),
        cmocka_unit_test(the_interpreter_knows_every_opcode),
        cmocka_unit_test(every_float_operation_rounds_explicitly),
        cmocka_unit_test(the_rules_find_what_breaks_them),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
