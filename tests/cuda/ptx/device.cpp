// device.cpp: the emulated device runs nvcc's PTX instead of the kernels that g++ compiled.
//
// A test of the backend that is linked with this file is the same test, of other code: every launch looks up its kernel's mangled name, which nvcc
// and g++ form alike, in the files that EMULATOR_PTX names (separated by spaces), and the interpreter runs it on the emulator's own buffers. A kernel
// that is in none of them ends the process, so that nothing falls back unseen; what the interpreter finds wrong does so, too.
#include <dlfcn.h>
#include <stdlib.h>

#include <sstream>

#include "tests/cuda/emulator/internal.h"
#include "tests/cuda/ptx/ptx.h"

static std::vector<std::unique_ptr<ptx::module>> modules;

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

static void interpret(const emu_call &call)
{
    Dl_info symbol;
    if (!dladdr(call.function, &symbol) || symbol.dli_sname == NULL || symbol.dli_saddr != call.function)
        emu_die("kernel %s has no symbol: it must not be static", call.name);
    std::vector<ptx::argument> arguments;
    call.visit([&](const void *value, size_t n_bytes) { arguments.push_back({value, n_bytes}); });
    try {
        if (modules.empty())
            load();
        for (const auto &m : modules)
            if (m->has(symbol.dli_sname)) {
                m->launch(symbol.dli_sname, {call.grid.x, call.grid.y, call.grid.z}, {call.block.x, call.block.y, call.block.z}, call.shared_bytes,
                          arguments, emu_schedule == EMULATOR_REVERSE);
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
