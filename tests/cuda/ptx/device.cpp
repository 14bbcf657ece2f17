// device.cpp: the emulated device runs nvcc's PTX instead of the kernels that g++ compiled.
//
// A test of the backend that is linked with this file is the same test, of other code: every launch looks up its kernel's mangled name, which nvcc
// and g++ form alike, in the files that EMULATOR_PTX names (separated by spaces), and the interpreter runs it on the emulator's own buffers. A kernel
// that is in none of them ends the process, so that nothing falls back unseen; what the interpreter finds wrong does so, too.
//
//   EMULATOR_PTX_LAUNCHED=FILE   gets the name of each kernel that was launched, once per process
//   EMULATOR_PTX_COUNTS=FILE     gets a line of JSON for each launch: what it issued and what its accesses cost (counts.h)
//   EMULATOR_PTX_BLOCKS=N        runs at most N blocks of a grid, spread over it: for counting only, results are wrong
#include <cxxabi.h>
#include <dlfcn.h>
#include <stdlib.h>

#include <set>
#include <sstream>

#include "tests/cuda/emulator/internal.h"
#include "tests/cuda/ptx/device.h"
#include "tests/cuda/ptx/ptx.h"

static std::vector<std::unique_ptr<ptx::module>> modules;
static std::set<std::string> launched;

void ptx_device_label(const char *label)
{
    emu_label = label;
}

static bool find_buffer(uintptr_t address, ptx::range *out)
{
    const void *begin;
    size_t n_bytes;
    if (!emu_find_buffer((const void *)address, &begin, &n_bytes))
        return false;
    *out = {(uintptr_t)begin, (uintptr_t)begin + n_bytes};
    return true;
}

static void load()
{
    const char *files = getenv("EMULATOR_PTX");
    std::stringstream names(files ? files : "");
    for (std::string name; names >> name;)
        modules.push_back(std::make_unique<ptx::module>(name));
    if (modules.empty())
        emu_die("EMULATOR_PTX names no file of PTX");
    ptx::find_ranges_with(find_buffer);
}

// Adds a line to the file that a variable names.
static void append(const char *variable, const std::string &line)
{
    const char *path = getenv(variable);
    FILE *f = path ? fopen(path, "a") : NULL;
    if (!f || fprintf(f, "%s\n", line.c_str()) < 0 || fclose(f) != 0)
        emu_die("cannot write to %s", path ? path : variable);
}

static std::string triple(const char *name, const dim3 &d)
{
    return "\"" + std::string(name) + "\":[" + std::to_string(d.x) + "," + std::to_string(d.y) + "," + std::to_string(d.z) + "],";
}

static void write_counts(const emu_call &call, const char *kernel, const ptx::counts &counts)
{
    char *plain = abi::__cxa_demangle(kernel, NULL, NULL, NULL);
    std::string name = plain ? plain : kernel;
    free(plain);
    if (name.compare(0, 5, "void ") == 0) // of a template
        name = name.substr(5);
    append("EMULATOR_PTX_COUNTS", "{\"label\":\"" + std::string(call.label) + "\",\"kernel\":\"" + name.substr(0, name.find('(')) + "\"," +
                                      triple("grid", call.grid) + triple("block", call.block) + "\"shared_bytes\":" +
                                      std::to_string(call.shared_bytes) + ",\"counts\":" + ptx::counts_json(counts) + "}");
}

static void run(const emu_call &call, const ptx::module &m, const char *kernel)
{
    std::vector<ptx::argument> arguments;
    call.visit([&](const void *value, size_t n_bytes) { arguments.push_back({value, n_bytes}); });
    ptx::launch_options options;
    ptx::counts counts;
    options.backwards = emu_schedule == EMULATOR_REVERSE;
    if (getenv("EMULATOR_PTX_BLOCKS"))
        options.most_blocks = strtoull(getenv("EMULATOR_PTX_BLOCKS"), NULL, 10);
    if (getenv("EMULATOR_PTX_COUNTS"))
        options.counts_out = &counts;
    m.launch(kernel, {call.grid.x, call.grid.y, call.grid.z}, {call.block.x, call.block.y, call.block.z}, call.shared_bytes, arguments, options);
    if (getenv("EMULATOR_PTX_LAUNCHED") && launched.insert(kernel).second)
        append("EMULATOR_PTX_LAUNCHED", kernel);
    if (options.counts_out)
        write_counts(call, kernel, counts);
}

static void interpret(const emu_call &call)
{
    Dl_info symbol;
    if (!dladdr(call.function, &symbol) || symbol.dli_sname == NULL || symbol.dli_saddr != call.function)
        emu_die("kernel %s has no symbol: it must not be static", call.name);
    try {
        if (modules.empty())
            load();
        for (const auto &m : modules)
            if (m->has(symbol.dli_sname)) {
                run(call, *m, symbol.dli_sname);
                return;
            }
    } catch (const ptx::error &e) {
        emu_die("%s", e.what());
    }
    emu_die("no file of EMULATOR_PTX has the kernel %s", symbol.dli_sname);
}

static bool install()
{
    emu_interpreter = interpret;
    return true;
}

static const bool installed = install();
